"""Conversations as DashScope's clients send them, made those of OpenAI's messages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from flowpod.api.openai.messages import ChatRoles, Conversation, Message, Part, part_of
from flowpod.errors import InvalidRequest


def _listed(content: Any) -> Any:
    if content is None:
        return []
    return [{"text": content}] if isinstance(content, str) else content


def _part(part: Any) -> Part:
    """Return what `{"text": ...}` or `{"image": url}` is, or a part of OpenAI's."""
    if isinstance(part, dict):
        given = [name for name in ("text", "image") if name in part]
        known = part if "type" in part else None
        if given == ["text"] and isinstance(part["text"], str):
            known = {"type": "text", "text": part["text"]}
        elif given == ["image"] and isinstance(part["image"], str):
            known = image_part(part["image"])
        if known is not None and (found := part_of(known)) is not None:
            return found
    raise PydanticCustomError("part", 'Expected {"text": "..."} or {"image": "..."}')


def image_part(url: Any) -> dict[str, Any]:
    """Return OpenAI's part for the image at `url`."""
    return {"type": "image_url", "image_url": {"url": url}}


class DashScopeMessage(Message):
    """A message whose content is a text, or a list of texts and images, and nothing that would be passed over."""

    content: Annotated[tuple[Annotated[Any, AfterValidator(_part)], ...], BeforeValidator(_listed)] = ()


class PastTurn(BaseModel):
    """A question with its answer, in the older form of a history."""

    model_config = ConfigDict(frozen=True)

    user: str = ""
    bot: str = ""


def said(history: Sequence[PastTurn]) -> list[Message]:
    """Return past turns as messages."""
    texts = [text for turn in history for text in (("user", turn.user), ("assistant", turn.bot))]
    return [Message.model_validate({"role": role, "content": text}) for role, text in texts]


def asked(prompt: str, images: Sequence[str] = ()) -> Message:
    """Return a prompt, with images, as the user's message."""
    parts = [{"type": "text", "text": prompt}, *(image_part(url) for url in images)]
    return Message.model_validate({"role": "user", "content": parts if images else prompt})


def with_images(conversation: Conversation, images: Sequence[str]) -> Conversation:
    """Return the conversation with further images in its question."""
    further = asked("", images).content[1:]
    return replace(conversation, question=conversation.question + further)


def inputs_of(roles: ChatRoles, conversation: Conversation, *, brings_history: bool) -> dict[str, Any]:
    """Return the flow's inputs that a conversation fills; what came before the question with `brings_history`."""
    inputs = roles.inputs(conversation.question)
    if brings_history and roles.history is not None:
        inputs[roles.history] = roles.pairs(conversation)
    return inputs


def without_question(roles: ChatRoles, inputs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the further inputs that stand at `key`; raises InvalidRequest when the question is among them."""
    if roles.question in inputs:
        param = f"{key}.{roles.question}"
        raise InvalidRequest(f"{param}: the flow's chat input is the prompt; leave it out here", param=param)
    return inputs


def wants_stream(request: Request) -> bool:
    """Return whether a client asks for events, by DashScope's header or by the usual one."""
    asks = request.headers.get("x-dashscope-sse", "").lower() == "enable"
    return asks or "text/event-stream" in request.headers.get("accept", "").lower()
