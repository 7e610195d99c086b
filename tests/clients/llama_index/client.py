"""The scenarios of LlamaIndex's client for servers like OpenAI's."""

from contextlib import closing
from typing import Any

import openai
from llama_index.core.llms import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike

from tests.clients.report import PICTURE, SESSION, TAG, TOKEN, URL, ask, report


def model(**more: Any) -> OpenAILike:
    return OpenAILike(**{"model": "any", "api_base": URL, "api_key": TOKEN, "is_chat_model": True, **more})


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def fields_of(response: ChatResponse) -> dict[str, Any]:
    raw: Any = response.raw
    return {
        "text": response.message.content,
        "finish": raw.choices[0].finish_reason if raw.choices else None,
        "tokens": raw.usage.total_tokens if raw.usage else None,
    }


def streamed(llm: OpenAILike, question: str, limit: int = 0) -> dict[str, Any]:
    """Return what a stream came to, and the error that it ended with; `limit` leaves it after so many pieces."""
    last: ChatResponse | None = None
    count, finish, error = 0, None, ""
    try:
        with closing(llm.stream_chat(user(question), stream_options={"include_usage": True})) as pieces:
            for piece in pieces:
                last = piece
                finish = fields_of(piece)["finish"] or finish
                count += bool(piece.delta)
                if count == limit > 0:
                    break
    except openai.APIError as caught:
        error = caught.message
    return {**(fields_of(last) if last else {"text": ""}), "finish": finish, "several": count > 1, "error": error}


def refused(llm: OpenAILike, messages: list[ChatMessage]) -> dict[str, Any]:
    try:
        llm.chat(messages)
    except openai.APIStatusError as error:
        return {"error": error.message, "status": error.status_code}
    return {"error": ""}


def session() -> dict[str, Any]:
    named = model(default_headers={"Chat-Session-Id": SESSION})
    named.chat(user(f"before {TAG}"))
    return fields_of(named.chat(user(ask("echo", "session"))))


def image() -> dict[str, Any]:
    blocks = [TextBlock(text=ask("echo", "image")), ImageBlock(url=PICTURE)]
    return fields_of(model().chat([ChatMessage(role="user", blocks=blocks)]))


def turns() -> dict[str, Any]:
    fine = ChatMessage(role="assistant", content="fine")
    return fields_of(model().chat([*user(f"first {TAG}"), fine, *user(ask("echo", "turns"))]))


def inputs() -> dict[str, Any]:
    return fields_of(model().chat(user(ask("echo", "inputs")), extra_body={"inputs": {"city": "Rome"}}))


report(
    {
        "whole": lambda: fields_of(model(temperature=0.25, max_tokens=50).chat(user(ask("echo", "whole")))),
        "stream": lambda: streamed(model(), ask("echo", "stream")),
        "turns": turns,
        "image": image,
        "inputs": inputs,
        "session": session,
        "thinking": lambda: streamed(model(), ask("reasoning", "thinking")),
        "token": lambda: refused(model(api_key="wrong"), user(ask("echo", "token"))),
        "invalid": lambda: refused(
            model(), [*user(ask("echo", "invalid")), ChatMessage(role="assistant", content="no")]
        ),
        "failed": lambda: refused(model(), user(ask("fail:500", "failed"))),
        "failed_stream": lambda: streamed(model(), ask("fail:500", "failed_stream")),
        "middle": lambda: streamed(model(), ask("break-off", "middle")),
        "cancel": lambda: streamed(model(), ask("endless", "cancel"), limit=4),
    }
)
