"""The scenarios of LangChain's ChatOpenAI."""

from typing import Any

import openai
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

from tests.clients.report import PICTURE, SESSION, TAG, TOKEN, URL, ask, report


def model(**more: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "any", "base_url": URL, "api_key": TOKEN, "stream_usage": True, **more})


def fields_of(message: BaseMessage) -> dict[str, Any]:
    assert isinstance(message, AIMessage)
    usage = message.usage_metadata
    return {
        "text": message.text,
        "finish": message.response_metadata.get("finish_reason"),
        "tokens": usage["total_tokens"] if usage else None,
    }


def streamed(chat: ChatOpenAI, question: str, limit: int = 0) -> dict[str, Any]:
    """Return what a stream came to, and the error that it ended with; `limit` leaves it after so many pieces."""
    total: AIMessageChunk | None = None
    count, error = 0, ""
    try:
        for piece in chat.stream(question):
            assert isinstance(piece, AIMessageChunk)
            total = piece if total is None else total + piece
            count += bool(piece.text)
            if count == limit > 0:
                break
    except openai.APIError as caught:
        error = caught.message
    return {**(fields_of(total) if total else {"text": ""}), "several": count > 1, "error": error}


def refused(chat: ChatOpenAI, messages: Any) -> dict[str, Any]:
    try:
        chat.invoke(messages)
    except openai.APIStatusError as error:
        return {"error": error.message, "status": error.status_code}
    return {"error": ""}


def session() -> dict[str, Any]:
    named = model(default_headers={"Chat-Session-Id": SESSION})
    named.invoke(f"before {TAG}")
    return fields_of(named.invoke(ask("echo", "session")))


def image() -> dict[str, Any]:
    parts = [{"type": "text", "text": ask("echo", "image")}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    return fields_of(model().invoke([HumanMessage(content=parts)]))


report(
    {
        "whole": lambda: fields_of(model(temperature=0.25, max_tokens=50).invoke(ask("echo", "whole"))),
        "stream": lambda: streamed(model(), ask("echo", "stream")),
        "turns": lambda: fields_of(
            model().invoke([HumanMessage(f"first {TAG}"), AIMessage("fine"), HumanMessage(ask("echo", "turns"))])
        ),
        "image": image,
        "inputs": lambda: fields_of(model(extra_body={"inputs": {"city": "Rome"}}).invoke(ask("echo", "inputs"))),
        "session": session,
        "thinking": lambda: streamed(model(), ask("reasoning", "thinking")),
        "token": lambda: refused(model(api_key="wrong"), ask("echo", "token")),
        "invalid": lambda: refused(model(), [HumanMessage(ask("echo", "invalid")), AIMessage("no")]),
        "failed": lambda: refused(model(), ask("fail:500", "failed")),
        "failed_stream": lambda: streamed(model(), ask("fail:500", "failed_stream")),
        "middle": lambda: streamed(model(), ask("break-off", "middle")),
        "cancel": lambda: streamed(model(), ask("endless", "cancel"), limit=4),
    }
)
