"""A stand-in for a model: a server of the APIs that models have, on a real socket, that misbehaves on request.

The name of the model says how it behaves, so that tests that share a server do not disturb each other:

    echo                    answers "You said: <last user message>", word by word
    words:N or words:N:S    answers "w0 w1 ... ", N words, S seconds apart
    fail:STATUS             answers STATUS, each time
    fail-once:STATUS:KEY    answers STATUS to the first request with this KEY, then as echo
    steps:N:KEY             answers "w0 w1 ... ", N words, each after a call of `step(KEY)`
    first-word              behaves as the first word of the last user message says
    <any name in SCENARIOS or WHOLE> see there

It serves chat completions and plain completions, under OpenAI's paths and under Azure's, OpenAI's Responses, and
DashScope's text and multimodal generation. To a request with tools or functions it answers with a call of the first one.
"""

import asyncio
import gzip
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.model_wires import USAGE, ChatWire, DashScopeWire, ResponsesWire, Wire, data
from tests.support.serving import in_thread


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
        content = next((m["content"] for m in reversed(self.messages) if m.get("role") == "user"), "")
        return str(content if isinstance(content, str) else next(p["text"] for p in content if "text" in p))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, wherever the API has them; a prompt is one."""
        given = self.body.get("input", self.body)  # text, items or a mapping
        if isinstance(given, dict):
            given = given.get("messages") or given["prompt"]
        return [{"role": "user", "content": given}] if isinstance(given, str) else given

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream")) or self.headers.get("x-dashscope-sse") == "enable"

    @property
    def wire(self) -> Wire:
        """How the API that was called puts answers."""
        if "/services/aigc/" in self.path:
            given = self.body["input"]
            return DashScopeWire(parts="multimodal" in self.path, plain="prompt" in given)
        return ResponsesWire() if self.path.endswith("/responses") else ChatWire(plain="prompt" in self.body)

    @property
    def behaviour(self) -> str:
        return self.question.split(" ")[0] if self.model == "first-word" else self.model


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


class BreakOffError(Exception):
    """Raised inside a stream: the server cuts the connection."""


async def _no_done(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("all ")
    yield wire.text("here")
    yield wire.end()


async def _no_finish(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("all here")
    yield data("[DONE]")


async def _ends_early(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("only ha")


async def _break_off(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("only ha")
    raise BreakOffError


async def _rubbish(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    yield data("this is not JSON")


async def _error_in_stream(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    yield wire.error("out of tokens")


async def _flat_error(wire: Wire) -> AsyncIterator[bytes]:
    yield data({"code": "Throttling", "message": "too fast", "request_id": "1"})


async def _flat_error_without_output(wire: Wire) -> AsyncIterator[bytes]:
    yield data({"code": "Throttling", "message": "too fast", "output": None, "request_id": "1"})


async def _odd_but_fine(wire: Wire) -> AsyncIterator[bytes]:
    yield b": a comment\n\n"
    yield b"event: message\r\nid: 7\r\n" + wire.text("").replace(b"\n", b"\r\n")
    yield data({"choices": [], "output": {}, "type": "new", "new_key": {"a": 1}})
    yield data({"id": "no choices at all", "type": "newer"})
    yield wire.text("fi")
    # One event in two pieces, with a multi-byte character cut in the middle.
    whole = wire.text("né").replace(b"\\u00e9", "é".encode())
    cut = whole.index("é".encode()) + 1
    yield whole[:cut]
    await asyncio.sleep(0.02)
    yield whole[cut:]
    yield wire.end(usage=USAGE)
    yield wire.done()


async def _reasoning(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("let me ", reasoning=True)
    yield wire.text("think", reasoning=True)
    yield wire.text("forty-two")
    yield wire.end()
    yield wire.done()


async def _two_answers(wire: Wire) -> AsyncIterator[bytes]:
    for index, text in ((0, "fir"), (1, "sec"), (0, "st"), (1, "ond")):
        yield wire.text(text, index=index)
    yield wire.end(usage={"prompt_tokens": "many", "completion_tokens": 2})
    yield wire.done()


async def _parts(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text(wire.bad)


async def _half_an_emoji(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("\ud83d")
    yield wire.end()


async def _length(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("cut off")
    yield wire.end("length", usage=USAGE)
    yield wire.done()


async def _silent(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    await asyncio.sleep(60)


async def _silent_after_finish(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("all here")
    yield wire.end()
    await asyncio.sleep(60)


async def _endless(wire: Wire) -> AsyncIterator[bytes]:
    while True:
        yield wire.text("more ")
        await asyncio.sleep(0.01)


async def _long_line(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    yield b"data: "
    for _ in range(960):
        yield b"x" * 65536


async def _long_event(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    for _ in range(480):
        yield b"data: 1234567\n" * 4096


async def _endless_reasoning(wire: Wire) -> AsyncIterator[bytes]:
    while True:
        yield wire.text("thought " * 8192, reasoning=True)
        await asyncio.sleep(0)  # after its client has left, the server drops what it sends and never waits


async def _deep(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    yield data(f'{{"error": {"[" * 1000}{"]" * 1000}}}')


async def _deeper(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("so far ")
    yield data(f'{{"choices": {"[" * 100_000}')


async def _huge_counts(wire: Wire) -> AsyncIterator[bytes]:
    yield wire.text("all here")
    yield wire.end(usage={"prompt_tokens": 10**30, "completion_tokens": -1})
    yield wire.done()


SCENARIOS: dict[str, Callable[[Wire], AsyncIterator[bytes]]] = {
    "no-done": _no_done,
    "no-finish": _no_finish,
    "ends-early": _ends_early,
    "break-off": _break_off,
    "rubbish": _rubbish,
    "error-in-stream": _error_in_stream,
    "flat-error": _flat_error,
    "flat-error-without-output": _flat_error_without_output,
    "odd-but-fine": _odd_but_fine,
    "reasoning": _reasoning,
    "length": _length,
    "half-an-emoji": _half_an_emoji,
    "two-answers": _two_answers,
    "parts": _parts,
    "silent": _silent,
    "silent-after-finish": _silent_after_finish,
    "endless": _endless,
    "long-line": _long_line,
    "long-event": _long_event,
    "endless-reasoning": _endless_reasoning,
    "deep": _deep,
    "deeper": _deeper,
    "huge-counts": _huge_counts,
}


async def _large_json() -> AsyncIterator[bytes]:
    """300 MB."""
    yield b'{"choices": [{"message": {"content": "'
    for _ in range(4800):
        yield b"x" * 65536
    yield b'"}}]}'


async def _large_text() -> AsyncIterator[bytes]:
    for _ in range(960):
        yield b"x" * 65536


def _compressed() -> bytes:
    """Return 100 kB that are 100 MB."""
    return gzip.compress(b"x" * 100_000_000)


WHOLE: dict[str, Callable[[], Response]] = {
    "large-json": lambda: StreamingResponse(_large_json(), media_type="application/json"),
    "large-error": lambda: StreamingResponse(_large_text(), 500, media_type="text/plain"),
    "compressed": lambda: Response(_compressed(), headers={"content-encoding": "gzip"}, media_type="application/json"),
    "compressed-error": lambda: Response(_compressed(), 500, headers={"content-encoding": "gzip"}),
    "not-compressed": lambda: Response(b"{}", headers={"content-encoding": "gzip"}, media_type="application/json"),
    "redirects": lambda: Response(b"x" * 1_000_000, 307, headers={"location": "/v1/chat/completions"}),
    "retry-after": lambda: Response(b"busy", 429, headers={"retry-after": "9" * 30}),
}
"""What a server sends whatever was asked."""


async def _words(wire: Wire, words: list[str], pause: float, usage: bool) -> AsyncIterator[bytes]:
    yield wire.text("")
    for word in words:
        if pause:
            await asyncio.sleep(pause)
        yield wire.text(word)
    yield wire.end(usage=USAGE if usage else None)
    yield wire.done()


async def _steps(wire: Wire, number: int, gate: threading.Semaphore) -> AsyncIterator[bytes]:
    for word in range(number):
        while not gate.acquire(blocking=False):
            await asyncio.sleep(0.005)
        yield wire.text(f"w{word} ")
    yield wire.end()


def _words_of(call: Call) -> tuple[list[str], float]:
    kind, *rest = call.behaviour.split(":")
    if kind == "words":
        return [f"w{number} " for number in range(int(rest[0]))], float(rest[1]) if len(rest) > 1 else 0.0
    words = f"You said: {call.question}".split(" ")
    return [
        word if last else word + " " for word, last in zip(words, [*[False] * (len(words) - 1), True], strict=True)
    ], 0.0


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
        if kind == "tell-key":
            return JSONResponse({"error": {"message": f"Incorrect key: {call.headers['authorization']}"}}, 401)
        if kind == "hang":
            await asyncio.sleep(60)
        if kind == "whole-error":
            return JSONResponse({"status": "failed", "error": {"message": "out of tokens"}, "output": []})
        if kind == "whole-flat-error":
            return JSONResponse({"code": "Throttling", "message": "out of tokens", "output": None, "request_id": "1"})
        if respond := WHOLE.get(kind):
            return respond()
        if kind == "html":
            return Response("<html>a proxy's page</html>", media_type="text/html")
        if not call.streams or kind == "json-to-stream":
            return self._whole(call)
        if scenario := SCENARIOS.get(kind):
            parts = scenario(call.wire)
        elif kind == "steps":
            parts = _steps(call.wire, int(rest[0]), self._server.steps[rest[1]])
        else:
            words, pause = _words_of(call)
            asked = (call.body.get("stream_options") or {}).get("include_usage")
            always = "input" in call.body or "prompt" in call.body
            parts = _words(call.wire, words, pause, bool(asked or always))
        return StreamingResponse(self._watched(call, parts), media_type="text/event-stream")

    def _whole(self, call: Call) -> Response:
        words, _ = _words_of(call)
        call.ended = "done"
        call.over.set()
        text, reasoning = "".join(words), ""
        if call.model == "reasoning":
            text, reasoning = "forty-two", "let me think"
        return JSONResponse(call.wire.whole(call.body, text, reasoning))

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
    paths += ["/v1/responses"]
    paths += [f"/v1/services/aigc/{kind}-generation/generation" for kind in ("text", "multimodal")]
    with in_thread(Starlette(routes=[Route(path, model.answer, methods=["POST"]) for path in paths])) as url:
        server.url = f"{url}/v1"
        yield server
