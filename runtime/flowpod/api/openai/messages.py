"""OpenAI's messages, the prompt and history that they make, and the inputs of the flow that these fill."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from flowpod.api.http.endpoint import Endpoint
from flowpod.api.http.requests import RequestModel, check_count
from flowpod.errors import InvalidRequest, NotFound
from flowpod.flow.model import Flow

ContentPart = str | dict[str, str]
"""A text, or an image in promptflow's format: `{"data:image/png;base64": ...}` or `{"data:image/*;url": ...}`."""

_DATA_URL = re.compile(r"data:(image/[^;,]++)([^,]*+),(.*)", re.DOTALL)
_BASE64 = ";base64"

_SIDE_REQUESTS = (
    ("### Task:", "<chat_history>"),  # Open WebUI: titles, tags, follow-ups, search queries
    ("Based on the chat history, give this conversation a ", ""),  # Chatbox
    ("Please generate a four to five word title", ""),  # NextChat
    ("Summarize the discussion briefly in 200 words", ""),  # NextChat
    ("使用四到五个字直接返回", "主题"),  # NextChat in Chinese
    ("简要总结一下对话内容", ""),  # NextChat in Chinese
    ("Summarize the conversation into a title in ", ""),  # Cherry Studio
    ("You are an assistant skilled in conversation", " title"),  # Cherry Studio, LobeChat
)
"""The texts by which chat clients' own requests are recognised: how one begins, and a text further on in it."""


def _content_parts(content: Any) -> Any:
    """Return the texts and images of a message; other parts are ignored."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Expected a string, a list of parts or null")
    check_count(content)
    return tuple(read for part in content if isinstance(part, dict) and (read := content_part(part)) is not None)


def content_part(part: Mapping[str, Any]) -> ContentPart | None:
    """Return the text or image of one of OpenAI's content parts; None for a part of another type."""
    if part.get("type") == "text":
        text = part.get("text") or ""
        if isinstance(text, list | dict):
            raise PydanticCustomError("content", "Expected a string as the text of a part")
        return str(text)
    image = part.get("image_url") if part.get("type") == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else image
    if not (isinstance(url, str) and url):
        return None
    match = _DATA_URL.fullmatch(url)
    is_base64 = match is not None and match[2].endswith(_BASE64)
    return {f"data:{match[1]};base64": match[3]} if match and is_base64 else {"data:image/*;url": url}


class Message(RequestModel):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[tuple[ContentPart, ...], BeforeValidator(_content_parts)] = ()

    @property
    def text(self) -> str:
        """The texts of the message, joined by newlines."""
        return _joined_texts(self.content)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A list of messages, read as the prompt of a turn and the history that the client sent with it.

    `history` has the prompt and the answer of each past turn. `user_turns` counts the user's turns with the prompt.
    `instructions` is the text of the system messages.
    """

    prompt: tuple[ContentPart, ...]
    history: tuple[tuple[tuple[ContentPart, ...], str], ...]
    user_turns: int
    instructions: str


@dataclass(frozen=True, slots=True)
class ChatFields:
    """The inputs of a flow that a conversation fills, and the output that answers it.

    `takes_parts`: the chat input is a list of content parts. `images` is the list input that gets all images;
    `single_images` are the inputs that get one image each.
    """

    chat_input: str
    chat_output: str
    chat_history: str | None = None
    takes_parts: bool = False
    images: str | None = None
    single_images: tuple[str, ...] = ()

    @classmethod
    def from_flow(cls, flow: Flow) -> Self:
        """Return the chat fields of a flow; raises NotFound if it has no chat input or no chat output."""
        if flow.chat_input is None or flow.chat_output is None:
            message = (
                "this flow has no chat input: none of its inputs has is_chat_input: true, so it has no "
                "OpenAI-compatible API; use POST / or POST /run"
            )
            raise NotFound(message, code="not_a_chat_flow")
        return cls(
            flow.chat_input,
            flow.chat_output,
            flow.chat_history,
            flow.inputs[flow.chat_input].type == "list",
            flow.chat_images,
            tuple(name for name, declared in flow.inputs.items() if declared.type == "image"),
        )

    def inputs(self, prompt: tuple[ContentPart, ...]) -> dict[str, Any]:
        """Return the flow's inputs for a user's message."""
        if self.takes_parts:
            return {self.chat_input: list(prompt)}
        images = [part for part in prompt if not isinstance(part, str)]
        inputs: dict[str, Any] = {self.chat_input: _joined_texts(prompt)}
        if self.images is not None:
            return {**inputs, self.images: images}
        return inputs | dict(zip(self.single_images, images, strict=False))

    def further_inputs(self, inputs: Mapping[str, Any], key: str, prompt: str) -> Mapping[str, Any]:
        """Return the inputs at `key` of the body; raises InvalidRequest for the chat input, which is the `prompt`."""
        if self.chat_input in inputs:
            param = f"{key}.{self.chat_input}"
            raise InvalidRequest(f"{param}: the flow's chat input is {prompt}; leave it out here", param=param)
        return inputs

    def history_turns(self, conversation: Conversation) -> list[dict[str, dict[str, Any]]]:
        """Return the history of a conversation in promptflow's format: `{"inputs", "outputs"}` for each turn."""
        return [
            {"inputs": self.inputs(prompt), "outputs": {self.chat_output: answer}}
            for prompt, answer in conversation.history
        ]


def model_overrides(limit: int | None, **parameters: Any) -> dict[str, Any]:
    """Return the parameters of models that are not None, and the token `limit` under both of OpenAI's names."""
    parameters |= {"max_tokens": limit, "max_completion_tokens": limit}
    return {name: value for name, value in parameters.items() if value is not None}


class ChatEndpoint(Endpoint):
    """An endpoint for flows with a chat input."""

    @cached_property
    def _fields(self) -> ChatFields:
        return ChatFields.from_flow(self._service.flow)


def read_conversation(messages: Sequence[Message], param: str = "messages") -> Conversation:
    """Return the prompt, the history and the instructions in a list of messages.

    Consecutive messages of one role are joined. A system message at the end, after an answer, is the prompt: some
    clients ask for a summary that way. Raises InvalidRequest, which names `param`, if the last message is not a prompt.
    """
    chat = [message for message in messages if message.role not in ("system", "developer")]
    system = [message for message in messages if message.role in ("system", "developer")]
    if chat and chat[-1].role == "assistant" and messages[-1].role in ("system", "developer"):
        chat.append(Message.model_construct(role="user", content=system.pop().content))
    if not messages:
        raise InvalidRequest(f"{param}: there is no message", param=param)
    if not chat or chat[-1].role != "user":
        role = chat[-1].role if chat else messages[-1].role
        place = f"{param}.{len(messages) - 1}.role"
        raise InvalidRequest(f"the last message must be the user's, not the {role}'s", param=place)
    turns = _joined_turns(chat)
    instructions = "\n\n".join(message.text for message in system)
    return Conversation(turns[-1][1], _history(turns[:-1]), sum(role == "user" for role, _ in turns), instructions)


def _joined_turns(messages: Sequence[Message]) -> list[tuple[str, tuple[ContentPart, ...]]]:
    """Return the roles and contents of the user's and the assistant's messages, consecutive ones of a role joined."""
    spoken = [message for message in messages if message.role in ("user", "assistant")]
    return [
        (role, tuple(part for message in turn for part in message.content))
        for role, turn in groupby(spoken, key=lambda message: message.role)
    ]


def _history(turns: Sequence[tuple[str, tuple[ContentPart, ...]]]) -> tuple[tuple[tuple[ContentPart, ...], str], ...]:
    history = []
    prompt: tuple[ContentPart, ...] = ()
    for role, parts in turns:
        if role == "assistant":
            history.append((prompt, _joined_texts(parts)))
        prompt = parts if role == "user" else ()
    return tuple(history)


def is_side_request(messages: Sequence[Message]) -> bool:
    """Return whether a chat client asks on its own behalf, for a title, tags or a summary of the chat."""
    return any(
        text.startswith(opening) and further in text
        for text in (messages[0].text.lstrip(), messages[-1].text.lstrip())
        for opening, further in _SIDE_REQUESTS
    )


def _joined_texts(parts: tuple[ContentPart, ...]) -> str:
    return "\n".join(part for part in parts if isinstance(part, str))
