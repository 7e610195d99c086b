"""The scenarios of the openai package."""

import time
from collections.abc import Iterable
from typing import Any

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.responses import Response

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


def responded(response: Response) -> dict[str, Any]:
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.summary]
    return {
        "text": response.output_text,
        "finish": response.status,
        "tokens": response.usage.total_tokens if response.usage else None,
        "reasoning": "".join(thoughts),
        "error": response.error.message if response.error else "",
    }


def response_stream(behaviour: str, scenario: str) -> dict[str, Any]:
    with client.responses.stream(model="any", input=ask(behaviour, scenario)) as events:
        seen = list(events)
    deltas = [event for event in seen if event.type == "response.output_text.delta"]
    last = seen[-1]
    assert last.type in ("response.completed", "response.failed")
    return responded(last.response) | {"several": len(deltas) > 1, "text": "".join(event.delta for event in deltas)}


def response_reply() -> dict[str, Any]:
    first = client.responses.create(model="any", input=f"before {TAG}")
    return responded(
        client.responses.create(model="any", input=ask("echo", "response_reply"), previous_response_id=first.id)
    )


def response_image() -> dict[str, Any]:
    return responded(
        client.responses.create(
            model="any",
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": ask("echo", "response_image")},
                        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
                    ],
                }
            ],
        )
    )


def response_failed() -> dict[str, Any]:
    try:
        client.responses.create(model="any", input=ask("fail:500", "response_failed"))
    except openai.APIStatusError as error:
        return {"error": error.message, "status": error.status_code}
    return {"error": ""}


def response_kept() -> dict[str, Any]:
    made = client.responses.create(model="any", input=ask("echo", "response_kept"))
    kept = client.responses.retrieve(made.id)
    client.responses.delete(made.id)
    try:
        client.responses.retrieve(made.id)
    except openai.NotFoundError:
        return responded(kept)
    return {"error": "it is still there"}


def response_background() -> dict[str, Any]:
    response = client.responses.create(model="any", input=ask("echo", "response_background"), background=True)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    return responded(response)


def response_followed() -> dict[str, Any]:
    question = ask("echo", "response_followed")
    with client.responses.create(model="any", input=question, background=True, stream=True) as events:
        first = next(iter(events))
    assert first.type == "response.created"
    *_, last = client.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number)
    assert last.type == "response.completed"
    return responded(last.response)


def response_cancelled() -> dict[str, Any]:
    response = client.responses.create(model="any", input=ask("endless", "response_cancelled"), background=True)
    while response.status == "queued" or not response.output:
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    cancelled = client.responses.cancel(response.id)
    return {"text": cancelled.output_text, "finish": cancelled.status}


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
        "response": lambda: responded(client.responses.create(model="any", input=ask("echo", "response"))),
        "response_stream": lambda: response_stream("echo", "response_stream"),
        "response_thinking": lambda: response_stream("reasoning", "response_thinking"),
        "response_middle": lambda: response_stream("break-off", "response_middle"),
        "response_reply": response_reply,
        "response_image": response_image,
        "response_failed": response_failed,
        "response_kept": response_kept,
        "response_background": response_background,
        "response_followed": response_followed,
        "response_cancelled": response_cancelled,
    }
)
