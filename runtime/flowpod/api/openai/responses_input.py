"""The body of a request for a response, and its input as messages."""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, StrictBool, StrictInt, ValidationError
from pydantic_core import PydanticCustomError

from flowpod.api.http.requests import Number, RequestModel, check_count
from flowpod.api.openai.messages import Message, model_overrides
from flowpod.errors import InvalidRequest, NotFound

_TEXTS = ("input_text", "output_text", "text")
_IDS = re.compile(r"(resp|msg|rs)_([0-9a-f]{32})(_\d+)?")


class ItemReference(RequestModel):
    """A reference to an item of a stored response."""

    id: str


Item = Message | ItemReference


def _items_of(given: Any) -> Any:
    """Return the items of an input, which is a text or a list; items of tools are skipped."""
    if isinstance(given, str):
        return (Message.model_construct(role="user", content=(given,)),)
    if not (isinstance(given, list) and given):
        raise PydanticCustomError("input", "Expected a text or a list of items")
    check_count(given)
    found = [_item(item, number) for number, item in enumerate(given)]
    return tuple(item for item in found if item is not None)


def _item(item: Any, number: int) -> Item | None:
    if not isinstance(item, dict):
        raise PydanticCustomError("input", "Item {number} is no object", {"number": number})
    kind = item.get("type") or "message"
    try:
        if kind == "item_reference":
            return ItemReference.model_validate(item)
        if kind == "message":
            return Message.model_validate({"role": item.get("role"), "content": _content(item.get("content"))})
    except ValidationError as error:
        detail = error.errors()[0]
        what = {"number": number, "field": str(detail["loc"][0]), "text": detail["msg"].lower()}
        raise PydanticCustomError("input", "Item {number}, {field}: {text}", what) from None
    return None


def _content(content: Any) -> Any:
    """Return a message's content as chat completions have it."""
    if not isinstance(content, list):
        return content
    return [_openai_part(part) if isinstance(part, dict) else part for part in content]


def _openai_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part.get("type") in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "input_image":
        if not part.get("image_url"):
            raise PydanticCustomError("input", "An input_image needs an image_url: there are no uploaded files here")
        return {"type": "image_url", "image_url": part["image_url"]}
    return part


class ResponseBody(RequestModel):
    """The request's body. Any model name is accepted, and unknown fields are ignored.

    `inputs` are more inputs of the flow by name; OpenAI's clients send them in `extra_body`.
    """

    input: Annotated[tuple[Item, ...], BeforeValidator(_items_of)]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    stream: StrictBool | None = None
    store: StrictBool | None = None
    background: StrictBool | None = None
    metadata: dict[str, str] | None = None
    inputs: dict[str, Any] | None = None
    user: Any = None
    temperature: Number | None = None
    top_p: Number | None = None
    max_output_tokens: StrictInt | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters for the flow's models."""
        return model_overrides(self.max_output_tokens, temperature=self.temperature, top_p=self.top_p)

    def response_fields(self) -> dict[str, Any]:
        """Return the fields of the response that repeat the request."""
        names = ("instructions", "previous_response_id", "temperature", "top_p", "max_output_tokens")
        user = self.user if isinstance(self.user, str) else None
        return {name: getattr(self, name) for name in names} | {
            "metadata": self.metadata or {},
            "user": user,
            "background": bool(self.background),
        }


def response_id(run_id: str) -> str:
    """Return the id of a run's response."""
    return f"resp_{run_id.replace('-', '')}"


def run_id_of(item_id: str, param: str) -> str:
    """Return the id of the run of a response or an item; raises NotFound for an invalid id."""
    match = _IDS.fullmatch(item_id)
    if match is None:
        raise response_not_found(item_id, param)
    return str(uuid.UUID(match[2]))


def response_not_found(item_id: str, param: str) -> NotFound:
    """Return the error for a response that does not exist or belongs to another user."""
    return NotFound(f"there is no response {item_id!r}", param=param, code="response_not_found")


def require_no_conversation(body: ResponseBody) -> None:
    """Raise InvalidRequest for a conversation, which would otherwise be ignored without notice."""
    if body.conversation is not None:
        message = "conversation: there are no conversations here; go on with previous_response_id, or Chat-Session-Id"
        raise InvalidRequest(message, param="conversation")


def item_texts(response: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the text of each item of a response by its id, None for reasoning items."""
    return {
        item["id"]: item["content"][0]["text"] if item["type"] == "message" else None for item in response["output"]
    }


def resolve_references(items: Sequence[Item], texts: Mapping[str, str | None]) -> list[Message]:
    """Return the messages, each reference replaced by a message with its text; reasoning items are left out."""
    messages = []
    for item in items:
        if isinstance(item, Message):
            messages.append(item)
        elif (text := texts[item.id]) is not None:
            messages.append(Message.model_construct(role="assistant", content=(text,)))
    return messages
