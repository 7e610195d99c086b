"""DashScope's messages, read as OpenAI's, and the inputs of the flow that they fill."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from flowpod.api.http.requests import RequestModel, check_count
from flowpod.api.openai.messages import ChatFields, ContentPart, Conversation, Message, content_part


def _as_list(content: Any) -> Any:
    if content is None:
        return []
    return [{"text": content}] if isinstance(content, str) else check_count(content)


def _content_of_part(part: Any) -> ContentPart:
    """Return the content of `{"text": ...}`, of `{"image": url}`, or of one of OpenAI's content parts."""
    if isinstance(part, dict):
        keys = [name for name in ("text", "image") if name in part]
        openai_part = part if "type" in part else None
        if keys == ["text"] and isinstance(part["text"], str):
            openai_part = {"type": "text", "text": part["text"]}
        elif keys == ["image"] and isinstance(part["image"], str):
            openai_part = _image_part(part["image"])
        if openai_part is not None and (content := content_part(openai_part)) is not None:
            return content
    raise PydanticCustomError("part", 'Expected {"text": "..."} or {"image": "..."}')


def _image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


class DashScopeMessage(Message):
    """A message whose content is a string or a list of texts and images; other parts are an error."""

    content: Annotated[tuple[Annotated[Any, AfterValidator(_content_of_part)], ...], BeforeValidator(_as_list)] = ()


class HistoryTurn(RequestModel):
    """A turn of `input.history`, the older format of a client's own history."""

    user: str = ""
    bot: str = ""


def history_messages(history: Sequence[HistoryTurn]) -> list[Message]:
    """Return the turns of a history as messages."""
    texts = [text for turn in history for text in (("user", turn.user), ("assistant", turn.bot))]
    return [Message.model_validate({"role": role, "content": text}) for role, text in texts]


def with_images(conversation: Conversation, urls: Sequence[str]) -> Conversation:
    """Return the conversation with further images in its prompt."""
    images = Message.model_validate({"role": "user", "content": [_image_part(url) for url in urls]})
    return replace(conversation, prompt=conversation.prompt + images.content)


def conversation_inputs(fields: ChatFields, conversation: Conversation, *, sends_history: bool) -> dict[str, Any]:
    """Return the flow's inputs for a conversation, including its history if the client `sends_history`."""
    inputs = fields.inputs(conversation.prompt)
    if sends_history and fields.chat_history is not None:
        inputs[fields.chat_history] = fields.history_turns(conversation)
    return inputs


def wants_stream(request: Request) -> bool:
    """Return whether the client asks for a stream, by DashScope's header or by `Accept`."""
    enabled = request.headers.get("x-dashscope-sse", "").lower() == "enable"
    return enabled or "text/event-stream" in request.headers.get("accept", "").lower()
