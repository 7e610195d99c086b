"""From the messages of a chat completion to a flow's inputs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from flowpod.errors import InvalidRequest
from flowpod.service import FlowService

Part = str | dict[str, str]
"""A text, or an image as promptflow writes it: `{"data:image/png;base64": ...}` or `{"data:image/*;url": ...}`."""

_DATA_URL = re.compile(r"data:(image/[^;,]+)[^,]*;base64,(.*)", re.DOTALL)

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
"""How chat clients open a request of their own, and what is further on in it."""


def _parts_of(content: Any) -> Any:
    """Return the texts and images of a message; other parts are passed over."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Expected a text, a list of parts or null")
    return tuple(found for part in content if isinstance(part, dict) and (found := part_of(part)) is not None)


def part_of(part: Mapping[str, Any]) -> Part | None:
    """Return the text or the image that a part of OpenAI's is, None for any other one."""
    if part.get("type") == "text":
        text = part.get("text") or ""
        if isinstance(text, list | dict):
            raise PydanticCustomError("content", "Expected a text in a part of type text")
        return str(text)
    image = part.get("image_url") if part.get("type") == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else image
    if not (isinstance(url, str) and url):
        return None
    match = _DATA_URL.fullmatch(url)
    return {f"data:{match[1]};base64": match[2]} if match else {"data:image/*;url": url}


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[tuple[Part, ...], BeforeValidator(_parts_of)] = ()

    @property
    def text(self) -> str:
        """The message's texts, a line each."""
        return "\n".join(part for part in self.content if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class ChatRoles:
    """Which inputs of a flow a conversation fills, and which output answers.

    `takes_parts`: the chat input is a list. `images` is the list that gets all images, `each_image` are inputs of one.
    """

    question: str
    answer: str
    history: str | None = None
    takes_parts: bool = False
    images: str | None = None
    each_image: tuple[str, ...] = ()

    @classmethod
    def of(cls, service: FlowService) -> "ChatRoles | None":
        """Return the roles in the service's flow, None when it holds no conversations."""
        flow = service.flow
        if flow.chat_input is None or flow.chat_output is None:
            return None
        return cls(
            flow.chat_input,
            flow.chat_output,
            flow.chat_history,
            flow.inputs[flow.chat_input].type == "list",
            flow.chat_images,
            tuple(name for name, declared in flow.inputs.items() if declared.type == "image"),
        )

    def inputs(self, parts: tuple[Part, ...]) -> dict[str, Any]:
        """Return the inputs that a user's message is."""
        if self.takes_parts:
            return {self.question: list(parts)}
        images = [part for part in parts if not isinstance(part, str)]
        inputs: dict[str, Any] = {self.question: _text(parts)}
        if self.images is not None:
            return {**inputs, self.images: images}
        return inputs | dict(zip(self.each_image, images, strict=False))

    def pairs(self, conversation: "Conversation") -> list[dict[str, dict[str, Any]]]:
        """Return what came before the question as promptflow's chat history."""
        return [
            {"inputs": self.inputs(asked), "outputs": {self.answer: answer}} for asked, answer in conversation.earlier
        ]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A list of messages as a flow takes it: what is asked, and before it questions with their answers."""

    question: tuple[Part, ...]
    earlier: tuple[tuple[tuple[Part, ...], str], ...]
    user_turns: int
    instructions: str


def read_conversation(messages: Sequence[Message], place: str = "messages") -> Conversation:
    """Return the last question, what came before it, and the system messages.

    Messages of one side that follow each other are joined. A system message that follows an answer is a question: so
    some clients ask for a summary. Raises InvalidRequest, which names `place`, when there is no question at the end.
    """
    said = [item for item in messages if item.role not in ("system", "developer")]
    told = [item for item in messages if item.role in ("system", "developer")]
    if said and said[-1].role == "assistant" and messages[-1].role in ("system", "developer"):
        said.append(Message.model_construct(role="user", content=told.pop().content))
    if not said or said[-1].role != "user":
        if not messages:
            raise InvalidRequest(f"{place}: there is no message", param=place)
        role = said[-1].role if said else messages[-1].role
        param = f"{place}.{len(messages) - 1}.role"
        raise InvalidRequest(f"the last message must be the user's, not the {role}'s", param=param)
    turns: list[tuple[str, tuple[Part, ...]]] = []
    for item in said:
        if item.role in ("user", "assistant"):
            if turns and turns[-1][0] == item.role:
                turns[-1] = (item.role, turns[-1][1] + item.content)
            else:
                turns.append((item.role, item.content))
    earlier = []
    asked: tuple[Part, ...] = ()
    for side, parts in turns[:-1]:
        if side == "assistant":
            earlier.append((asked, _text(parts)))
        asked = parts if side == "user" else ()
    instructions = "\n\n".join(item.text for item in told)
    return Conversation(turns[-1][1], tuple(earlier), sum(side == "user" for side, _ in turns), instructions)


def is_side_request(messages: Sequence[Message]) -> bool:
    """Return whether a chat client asks for itself: for a conversation's title, its tags, its summary."""
    return any(
        item.text.lstrip().startswith(opening) and further in item.text
        for item in (messages[0], messages[-1])
        for opening, further in _SIDE_REQUESTS
    )


def _text(parts: tuple[Part, ...]) -> str:
    return "\n".join(part for part in parts if isinstance(part, str))
