"""A stand-in for a model: an OpenAI-compatible server on a real socket that misbehaves when told to.

The name of the model says how it behaves, so that tests that share a server do not disturb each other:

    echo                    answers "You said: <last user message>", word by word
    words:N or words:N:S    answers "w0 w1 ... ", N words, S seconds apart
    fail:STATUS             answers STATUS, each time
    fail-once:STATUS:KEY    answers STATUS to the first request with this KEY, then as echo
    steps:N:KEY             answers "w0 w1 ... ", N words, each after a call of `step(KEY)`
    told                    behaves as the first word of the last user message says
    <any name in SCENARIOS> see there

It serves chat completions and plain completions, under OpenAI's paths and under Azure's. To a request with tools or
functions it answers with a call of the first one.
"""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.serving import in_thread

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@dataclass
class Call:
    """One request that the model got; `ended` says how its answer ended: "done", "left" or "failed"."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str = ""
    ended: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def question(self) -> str:
        """The text of the last user message, its first text where it has parts."""
        messages = self.body.get("messages") or [{"role": "user", "content": self.body["prompt"]}]
        content = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        return str(content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text"))

    @property
    def behaviour(self) -> str:
        return self.question.split(" ")[0] if self.model == "told" else self.model


@dataclass
class ModelServer:
    """The running server: its address and every request so far."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    steps: defaultdict[str, threading.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: threading.Semaphore(0))
    )

    def step(self, key: str) -> None:
        """Let the next word of an answer go."""
        self.steps[key].release()

    @property
    def azure_url(self) -> str:
        return self.url.removesuffix("/v1")

    def calls_of(self, model: str) -> list[Call]:
        return [call for call in self.calls if call.model == model]


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> bytes:
    return data(
        {
            "id": "chatcmpl-model",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "stand-in",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
            **extra,
        }
    )


def data(content: Any) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    return f"data: {text}\n\n".encode()


class BreakOffError(Exception):
    """Raised inside a stream: the server cuts the connection."""


async def _no_done() -> AsyncIterator[bytes]:
    yield chunk({"content": "all "})
    yield chunk({"content": "here"}, "stop")


async def _no_finish() -> AsyncIterator[bytes]:
    yield chunk({"content": "all here"})
    yield data("[DONE]")


async def _ends_early() -> AsyncIterator[bytes]:
    yield chunk({"content": "only ha"})


async def _break_off() -> AsyncIterator[bytes]:
    yield chunk({"content": "only ha"})
    raise BreakOffError


async def _rubbish() -> AsyncIterator[bytes]:
    yield chunk({"content": "so far "})
    yield data("this is not JSON")


async def _error_in_stream() -> AsyncIterator[bytes]:
    yield chunk({"content": "so far "})
    yield b"event: error\n" + data({"error": {"message": "out of tokens", "code": "overloaded"}})


async def _flat_error() -> AsyncIterator[bytes]:
    yield data({"code": "Throttling", "message": "too fast", "request_id": "1"})


async def _odd_but_fine() -> AsyncIterator[bytes]:
    yield b": a comment\n\n"
    yield b"event: message\r\nid: 7\r\n" + chunk({"role": "assistant", "content": ""}).replace(b"\n", b"\r\n")
    yield data({"choices": [], "new_key": {"a": 1}})
    yield data({"id": "no choices at all"})
    yield chunk({"content": "fi"}, None, surprise=True)
    # One event in two pieces, with a multi-byte character cut in the middle.
    whole = f"data: {json.dumps({'choices': [{'delta': {'content': 'né'}}]}, ensure_ascii=False)}\n\n".encode()
    cut = whole.index("é".encode()) + 1
    yield whole[:cut]
    await asyncio.sleep(0.02)
    yield whole[cut:]
    yield chunk({}, "stop")
    yield data({"choices": [], "usage": USAGE})
    yield data("[DONE]")


async def _reasoning() -> AsyncIterator[bytes]:
    yield chunk({"reasoning_content": "let me "})
    yield chunk({"reasoning_content": "think"})
    yield chunk({"content": "forty-two"})
    yield chunk({}, "stop")
    yield data("[DONE]")


async def _two_answers() -> AsyncIterator[bytes]:
    for index, text in ((0, "fir"), (1, "sec"), (0, "st"), (1, "ond")):
        yield data({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}]})
    yield chunk({}, "stop", usage={"prompt_tokens": "many", "completion_tokens": 2})
    yield data("[DONE]")


async def _parts() -> AsyncIterator[bytes]:
    yield chunk({"content": [{"type": "text", "text": "x"}]})


async def _half_an_emoji() -> AsyncIterator[bytes]:
    yield b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n'
    yield chunk({}, "stop")


async def _length() -> AsyncIterator[bytes]:
    yield chunk({"content": "cut off"})
    yield chunk({}, "length", usage=USAGE)
    yield data("[DONE]")


async def _silent() -> AsyncIterator[bytes]:
    yield chunk({"content": "so far "})
    await asyncio.sleep(60)


async def _silent_after_finish() -> AsyncIterator[bytes]:
    yield chunk({"content": "all here"}, "stop")
    await asyncio.sleep(60)


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield chunk({"content": "more "})
        await asyncio.sleep(0.01)


SCENARIOS = {
    "no-done": _no_done,
    "no-finish": _no_finish,
    "ends-early": _ends_early,
    "break-off": _break_off,
    "rubbish": _rubbish,
    "error-in-stream": _error_in_stream,
    "flat-error": _flat_error,
    "odd-but-fine": _odd_but_fine,
    "reasoning": _reasoning,
    "length": _length,
    "half-an-emoji": _half_an_emoji,
    "two-answers": _two_answers,
    "parts": _parts,
    "silent": _silent,
    "silent-after-finish": _silent_after_finish,
    "endless": _endless,
}


async def _words(words: list[str], pause: float, usage: bool) -> AsyncIterator[bytes]:
    yield chunk({"role": "assistant", "content": ""})
    for word in words:
        if pause:
            await asyncio.sleep(pause)
        yield chunk({"content": word})
    yield chunk({}, "stop")
    if usage:
        yield data({"id": "chatcmpl-model", "model": "stand-in", "choices": [], "usage": USAGE})
    yield data("[DONE]")


async def _steps(number: int, gate: threading.Semaphore) -> AsyncIterator[bytes]:
    for word in range(number):
        while not gate.acquire(blocking=False):
            await asyncio.sleep(0.005)
        yield chunk({"content": f"w{word} "})
    yield chunk({}, "stop")


def _words_of(call: Call) -> tuple[list[str], float]:
    kind, *rest = call.behaviour.split(":")
    if kind == "words":
        return [f"w{number} " for number in range(int(rest[0]))], float(rest[1]) if len(rest) > 1 else 0.0
    words = f"You said: {call.question}".split(" ")
    return [
        word if last else word + " " for word, last in zip(words, [*[False] * (len(words) - 1), True], strict=True)
    ], 0.0


async def _texts(words: list[str]) -> AsyncIterator[bytes]:
    for word in words:
        yield data({"choices": [{"index": 0, "text": word, "finish_reason": None}]})
    yield data({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": USAGE})
    yield data("[DONE]")


def _answered(body: dict[str, Any], text: str) -> dict[str, Any]:
    if "prompt" in body:
        return {"text": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if body["model"] == "reasoning":
        message |= {"content": "forty-two", "reasoning_content": "let me think"}
    if body.get("tools"):
        called = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
        message |= {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": called}]}
    elif body.get("functions"):
        message |= {"content": None, "function_call": {"name": body["functions"][0]["name"], "arguments": "{}"}}
    return {"message": message}


class _Model:
    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._failed: set[str] = set()

    async def answer(self, request: Request) -> Response:
        call = Call(await request.json(), dict(request.headers), str(request.url).removeprefix(self._server.azure_url))
        self._server.calls.append(call)
        kind, *rest = call.behaviour.split(":")
        if kind == "fail" or (kind == "fail-once" and call.behaviour not in self._failed):
            self._failed.add(call.behaviour)
            call.ended = "failed"
            call.over.set()
            return JSONResponse({"error": {"message": f"refused with {rest[0]}", "type": "x"}}, int(rest[0]))
        if kind == "hang":
            await asyncio.sleep(60)
        if kind == "html":
            return Response("<html>a proxy's page</html>", media_type="text/html")
        if not call.body.get("stream") or kind == "json-to-stream":
            return self._whole(call)
        if "prompt" in call.body:
            words, _ = _words_of(call)
            parts = _texts(words)
        elif scenario := SCENARIOS.get(kind):
            parts = scenario()
        elif kind == "steps":
            parts = _steps(int(rest[0]), self._server.steps[rest[1]])
        else:
            words, pause = _words_of(call)
            parts = _words(words, pause, bool((call.body.get("stream_options") or {}).get("include_usage")))
        return StreamingResponse(self._watched(call, parts), media_type="text/event-stream")

    def _whole(self, call: Call) -> Response:
        words, _ = _words_of(call)
        call.ended = "done"
        call.over.set()
        choice = {"index": 0, **_answered(call.body, "".join(words)), "finish_reason": "stop"}
        return JSONResponse({"id": "c", "model": "stand-in", "choices": [choice], "usage": USAGE})

    async def _watched(self, call: Call, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        call.ended = "left"
        try:
            async for part in parts:
                yield part
            call.ended = "done"
        except BreakOffError:
            call.ended = "failed"
            raise
        finally:
            call.over.set()


@contextmanager
def running_model_server() -> Iterator[ModelServer]:
    """Run the stand-in until the block ends."""
    server = ModelServer()
    model = _Model(server)
    bases = ("/v1", "/openai/deployments/{deployment}")
    paths = [f"{base}/{api}" for base in bases for api in ("chat/completions", "completions")]
    app = Starlette(routes=[Route(path, model.answer, methods=["POST"]) for path in paths])
    with in_thread(app) as url:
        server.url = f"{url}/v1"
        yield server
