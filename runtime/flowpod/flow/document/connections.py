"""Connections as they are written in YAML, one class per type; the types and keys are promptflow's."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from flowpod.flow.document.base import Section, Text, empty_if_none


def _scalar_text(value: Any) -> Any:
    """Return YAML's numbers, dates and booleans as text: promptflow's connections have no other values."""
    if value is None:
        return ""
    return value if isinstance(value, str | list | dict) else str(value)


Texts = Annotated[dict[str, Annotated[str, BeforeValidator(_scalar_text)]], BeforeValidator(empty_if_none)]


class ConnectionDocument(Section):
    """The keys of all connections; any string may contain ${env:NAME} or ${env:NAME:-default}."""

    secret: ClassVar[frozenset[str]] = frozenset({"api_key"})
    """The keys whose values must not be shown."""

    schema_: str | None = Field(None, alias="$schema")
    name: Text = ""
    module: Text = ""
    fallback: Text = Field("", description="The connection to use when no variable of this one is set.")


class _ModelDocument(ConnectionDocument):
    """A connection that llm nodes can use."""

    api_key: Text = ""
    model: Text = Field("", description="The model for nodes that name none.")
    timeout_s: float = Field(
        120, gt=0, allow_inf_nan=False, description="The longest silence of the model, in seconds."
    )
    max_retries: int = Field(2, ge=0, description="How often a call is repeated that failed before its first token.")
    stream_usage: bool = Field(
        True, description="Ask for token counts in streams; off for servers that refuse the option."
    )


class OpenAIDocument(_ModelDocument):
    """OpenAI, or a server with the same API."""

    type: Literal["open_ai"]
    base_url: Text = ""
    organization: Text = ""
    api: Literal["chat", "responses"] = Field("chat", description="Chat completions, or the Responses API.")


class DashScopeDocument(_ModelDocument):
    """Alibaba Cloud's DashScope, by its own API."""

    type: Literal["dashscope"]
    base_url: Text = ""
    workspace: Text = ""
    api: Literal["auto", "text", "multimodal"] = Field(
        "auto", description="Text or multimodal generation; by default what a prompt needs. Some models have only one."
    )


class _KeyOnlyDocument(ConnectionDocument):
    auth_mode: Text = "key"

    @field_validator("auth_mode")
    @classmethod
    def _is_key(cls, value: str) -> str:
        if value != "key":
            raise ValueError(f"auth_mode {value!r} is not supported; give the connection an api_key")
        return value


class AzureOpenAIDocument(_ModelDocument, _KeyOnlyDocument):
    """Azure OpenAI: the model is a deployment."""

    type: Literal["azure_open_ai"]
    api_base: str
    api_type: Text = "azure"
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2024-02-01"
    resource_id: Text = ""


class ServerlessDocument(_ModelDocument):
    """A serverless endpoint of Azure's model catalogue."""

    type: Literal["serverless"]
    api_base: str


class CognitiveSearchDocument(_KeyOnlyDocument):
    """Azure AI Search."""

    type: Literal["cognitive_search"]
    api_key: Text = ""
    api_base: str
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2023-11-01"


class ContentSafetyDocument(ConnectionDocument):
    """Azure AI Content Safety."""

    type: Literal["azure_content_safety"]
    api_key: Text = ""
    endpoint: str
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2023-10-01"
    api_type: Text = "Content Safety"


class FormRecognizerDocument(ConnectionDocument):
    """Azure AI Document Intelligence."""

    type: Literal["form_recognizer"]
    api_key: Text = ""
    endpoint: str
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2023-07-31"
    api_type: Text = "Form Recognizer"


class AIServicesDocument(_KeyOnlyDocument):
    """Azure AI Services."""

    type: Literal["azure_ai_services"]
    api_key: Text = ""
    endpoint: str


class SerpDocument(ConnectionDocument):
    """SerpApi."""

    type: Literal["serp"]
    api_key: Text = ""


class CustomDocument(ConnectionDocument):
    """Any other service: texts that are secret, and texts that are not."""

    secret: ClassVar[frozenset[str]] = frozenset({"secrets"})

    type: Literal["custom"]
    configs: Texts = Field(default_factory=dict)
    secrets: Texts = Field(default_factory=dict)
    custom_type: Text = ""
    package: Text = ""
    package_version: Annotated[str, BeforeValidator(_scalar_text)] = ""


CONNECTION_TYPES: Mapping[str, type[ConnectionDocument]] = {
    get_args(document.model_fields["type"].annotation)[0]: document
    for document in (
        OpenAIDocument,
        AzureOpenAIDocument,
        ServerlessDocument,
        DashScopeDocument,
        CognitiveSearchDocument,
        ContentSafetyDocument,
        FormRecognizerDocument,
        AIServicesDocument,
        SerpDocument,
        CustomDocument,
    )
}
"""Every connection type by its name; Prompt Flow's, and `dashscope`."""

_BY_BARE_NAME = {name.replace("_", ""): name for name in CONNECTION_TYPES}


def known_type(text: Any) -> str | None:
    """Return the name of the type in either of Prompt Flow's spellings (`open_ai`, `OpenAI`); None if unknown."""
    return _BY_BARE_NAME.get(text.replace("_", "").lower()) if isinstance(text, str) else None
