"""The scenarios of the openai package."""

from collections.abc import Iterable
from typing import Any

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

from tests.clients.report import PICTURE, SESSION, TAG, TOKEN, URL, ask, report

client = openai.OpenAI(base_url=URL, api_key=TOKEN)


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def answered(completion: ChatCompletion) -> dict[str, Any]:
    choice = completion.choices[0]
    assert completion.usage is not None
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "tokens": completion.usage.total_tokens,
        "reasoning": getattr(choice.message, "reasoning_content", ""),
    }


def streamed(chunks: Iterable[ChatCompletionChunk]) -> dict[str, Any]:
    """Return what a stream came to, and the error that it ended with."""
    seen: list[ChatCompletionChunk] = []
    error = ""
    try:
        seen.extend(chunks)
    except openai.APIError as caught:
        error = caught.message
    deltas = [chunk.choices[0].delta for chunk in seen if chunk.choices]
    texts = [delta.content for delta in deltas if delta.content]
    return {
        "text": "".join(texts),
        "several": len(texts) > 1,
        "finish": [chunk.choices[0].finish_reason for chunk in seen if chunk.choices][-1],
        "tokens": seen[-1].usage.total_tokens if seen[-1].usage else None,
        "reasoning": "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas),
        "error": error,
    }


def refused(model: openai.OpenAI, messages: list[ChatCompletionMessageParam], stream: bool = False) -> dict[str, Any]:
    try:
        model.chat.completions.create(model="any", messages=messages, stream=stream)
    except openai.APIStatusError as error:
        return {"error": error.message, "status": error.status_code}
    return {"error": ""}


def whole() -> dict[str, Any]:
    return answered(
        client.chat.completions.create(
            model="any", messages=user(ask("echo", "whole")), temperature=0.25, max_tokens=50, user="ann"
        )
    )


def stream() -> dict[str, Any]:
    return streamed(
        client.chat.completions.create(
            model="any", messages=user(ask("echo", "stream")), stream=True, stream_options={"include_usage": True}
        )
    )


def turns() -> dict[str, Any]:
    messages: list[ChatCompletionMessageParam] = [
        *user(f"first {TAG}"),
        {"role": "assistant", "content": "fine"},
        *user(ask("echo", "turns")),
    ]
    return answered(client.chat.completions.create(model="any", messages=messages))


def image() -> dict[str, Any]:
    messages: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": ask("echo", "image")},
                {"type": "image_url", "image_url": {"url": PICTURE}},
            ],
        }
    ]
    return answered(client.chat.completions.create(model="any", messages=messages))


def inputs() -> dict[str, Any]:
    return answered(
        client.chat.completions.create(
            model="any", messages=user(ask("echo", "inputs")), extra_body={"inputs": {"city": "Rome"}}
        )
    )


def session() -> dict[str, Any]:
    with openai.OpenAI(base_url=URL, api_key=TOKEN, default_headers={"Chat-Session-Id": SESSION}) as named:
        named.chat.completions.create(model="any", messages=user(f"before {TAG}"))
        return answered(named.chat.completions.create(model="any", messages=user(ask("echo", "session"))))


def thinking() -> dict[str, Any]:
    return streamed(
        client.chat.completions.create(model="any", messages=user(ask("reasoning", "thinking")), stream=True)
    )


def middle() -> dict[str, Any]:
    return streamed(client.chat.completions.create(model="any", messages=user(ask("break-off", "middle")), stream=True))


def failed_stream() -> dict[str, Any]:
    return streamed(
        client.chat.completions.create(model="any", messages=user(ask("fail:500", "failed_stream")), stream=True)
    )


def cancel() -> dict[str, Any]:
    texts = []
    with client.chat.completions.create(model="any", messages=user(ask("endless", "cancel")), stream=True) as chunks:
        for chunk in chunks:
            texts.append(chunk.choices[0].delta.content or "")
            if len(texts) == 5:
                break
    return {"text": "".join(texts)}


report(
    {
        "whole": whole,
        "stream": stream,
        "turns": turns,
        "image": image,
        "inputs": inputs,
        "session": session,
        "thinking": thinking,
        "models": lambda: {"ids": [model.id for model in client.models.list()]},
        "token": lambda: refused(openai.OpenAI(base_url=URL, api_key="wrong"), user(ask("echo", "token")), True),
        "invalid": lambda: refused(client, [*user(ask("echo", "invalid")), {"role": "assistant", "content": "no"}]),
        "failed": lambda: refused(client, user(ask("fail:500", "failed"))),
        "failed_stream": failed_stream,
        "middle": middle,
        "cancel": cancel,
    }
)
