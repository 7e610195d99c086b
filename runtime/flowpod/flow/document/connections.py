"""Connections as their authors write them, one class a type; the types and keys are promptflow's."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from flowpod.flow.document.base import Section, Text, empty_if_none


def _scalar_text(value: Any) -> Any:
    """Return YAML's numbers, dates and booleans as text: promptflow's connections hold text alone."""
    if value is None:
        return ""
    return value if isinstance(value, str | list | dict) else str(value)


Texts = Annotated[dict[str, Annotated[str, BeforeValidator(_scalar_text)]], BeforeValidator(empty_if_none)]


class ConnectionPart(Section):
    """What all connections have; any string may hold ${env:NAME} or ${env:NAME:-default}."""

    secret: ClassVar[frozenset[str]] = frozenset({"api_key"})

    schema_: str | None = Field(None, alias="$schema")
    name: Text = ""
    module: Text = ""
    fallback: Text = Field("", description="The connection to use when none of this one's variables is set.")


class _ModelPart(ConnectionPart):
    """A connection that llm nodes can use."""

    api_key: Text = ""
    model: Text = Field("", description="The model of the nodes that name none.")
    timeout_s: float = Field(
        120, gt=0, allow_inf_nan=False, description="How long the model may be silent, in seconds."
    )
    max_retries: int = Field(2, ge=0, description="How often a call that failed before its first token is repeated.")
    stream_usage: bool = Field(True, description="Ask for token counts in streams; off for servers that refuse that.")


class OpenAIPart(_ModelPart):
    """OpenAI, or a server that speaks its API."""

    type: Literal["open_ai"]
    base_url: Text = ""
    organization: Text = ""
    api: Literal["chat", "responses"] = Field("chat", description="Chat completions, or the Responses API.")


class DashScopePart(_ModelPart):
    """Alibaba Cloud's DashScope by its own API."""

    type: Literal["dashscope"]
    base_url: Text = ""
    workspace: Text = ""
    api: Literal["auto", "text", "multimodal"] = Field(
        "auto", description="Text or multimodal generation; by default what a prompt needs. Some models know only one."
    )


class _KeyOnlyPart(ConnectionPart):
    auth_mode: Text = "key"

    @field_validator("auth_mode")
    @classmethod
    def _is_key(cls, value: str) -> str:
        if value != "key":
            raise ValueError(f"auth_mode {value!r} is not supported; give the connection an api_key")
        return value


class AzureOpenAIPart(_ModelPart, _KeyOnlyPart):
    """Azure OpenAI: the model is a deployment."""

    type: Literal["azure_open_ai"]
    api_base: str
    api_type: Text = "azure"
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2024-02-01"
    resource_id: Text = ""


class ServerlessPart(_ModelPart):
    """A serverless endpoint of Azure's model catalogue."""

    type: Literal["serverless"]
    api_base: str


class CognitiveSearchPart(_KeyOnlyPart):
    """Azure AI Search."""

    type: Literal["cognitive_search"]
    api_key: Text = ""
    api_base: str
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2023-11-01"


class ContentSafetyPart(ConnectionPart):
    """Azure AI Content Safety."""

    type: Literal["azure_content_safety"]
    api_key: Text = ""
    endpoint: str
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2023-10-01"
    api_type: Text = "Content Safety"


class FormRecognizerPart(ConnectionPart):
    """Azure AI Document Intelligence."""

    type: Literal["form_recognizer"]
    api_key: Text = ""
    endpoint: str
    api_version: Annotated[str, BeforeValidator(_scalar_text)] = "2023-07-31"
    api_type: Text = "Form Recognizer"


class AIServicesPart(_KeyOnlyPart):
    """Azure AI Services."""

    type: Literal["azure_ai_services"]
    api_key: Text = ""
    endpoint: str


class SerpPart(ConnectionPart):
    """SerpApi."""

    type: Literal["serp"]
    api_key: Text = ""


class CustomPart(ConnectionPart):
    """Anything else: texts that are secret and texts that are not."""

    secret: ClassVar[frozenset[str]] = frozenset({"secrets"})

    type: Literal["custom"]
    configs: Texts = Field(default_factory=dict)
    secrets: Texts = Field(default_factory=dict)
    custom_type: Text = ""
    package: Text = ""
    package_version: Annotated[str, BeforeValidator(_scalar_text)] = ""


PARTS: Mapping[str, type[ConnectionPart]] = {
    "open_ai": OpenAIPart,
    "azure_open_ai": AzureOpenAIPart,
    "serverless": ServerlessPart,
    "dashscope": DashScopePart,
    "cognitive_search": CognitiveSearchPart,
    "azure_content_safety": ContentSafetyPart,
    "form_recognizer": FormRecognizerPart,
    "azure_ai_services": AIServicesPart,
    "serp": SerpPart,
    "custom": CustomPart,
}

_BARE = {name.replace("_", ""): name for name in PARTS}


def known_type(text: Any) -> str | None:
    """Return the type that `text` names, in either of promptflow's spellings (`open_ai`, `OpenAI`), or None."""
    return _BARE.get(text.replace("_", "").lower()) if isinstance(text, str) else None
