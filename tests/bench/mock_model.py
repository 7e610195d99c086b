"""A model that is not the bottleneck: OpenAI's chat completions as bytes that are rendered once.

    python -m tests.bench.mock_model --port 9000

The last `chunks:N:S` in a request's body says what it answers: N chunks, S seconds apart, the first at once
(`Question`). Every chunk is a write of its own, as a model's are: what is written in one turn of uvloop's event loop
would leave in one piece.
"""

import argparse
import asyncio
import re
from functools import cache
from typing import Any, cast

import orjson
import uvloop

from tests.bench.question import word

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ASKED = re.compile(rb"chunks:(\d+):([\d.]+)")
_STREAM = re.compile(rb'"stream": *true')
_USAGE = {"prompt_tokens": 11, "completion_tokens": 64, "total_tokens": 75}
_HEAD = {"id": "chatcmpl-mock", "created": 1, "model": "mock", "system_fingerprint": None}
_STREAM_START = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class MockModel(asyncio.Protocol):
    """One connection, on which requests follow one another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._received, 0, end + 2)
        whole = end + 4 + (int(found[1]) if found else 0)
        if len(self._received) >= whole:
            body, self._received = self._received[end + 4 : whole], self._received[whole:]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        asked = _ASKED.findall(body)
        if not asked:
            self._transport.write(_response({"object": "list", "data": [{"id": "mock", "object": "model"}]}))
            return
        chunks, pause = int(asked[-1][0]), float(asked[-1][1])
        if _STREAM.search(body):
            frames = _frames(chunks, b'"include_usage"' in body)
            self._transport.write(_STREAM_START + frames[0])
            self._next(frames, 1, pause)
        elif pause:
            self._loop.call_later(pause * (chunks - 1), self._write, _whole(chunks))
        else:
            self._transport.write(_whole(chunks))

    def _write(self, data: bytes) -> None:
        if not self._gone:
            self._transport.write(data)

    def _next(self, frames: list[bytes], number: int, pause: float) -> None:
        if pause and 2 <= number < len(frames) - 2:  # between two chunks of text
            self._loop.call_later(pause, self._step, frames, number, pause)
        else:
            self._loop.call_soon(self._step, frames, number, pause)

    def _step(self, frames: list[bytes], number: int, pause: float) -> None:
        self._write(frames[number])
        if number + 1 < len(frames) and not self._gone:
            self._next(frames, number + 1, pause)


@cache
def _frames(chunks: int, usage: bool) -> list[bytes]:
    """Return the writes of a stream: its start, a chunk each, its end."""
    end = _sse({"delta": {}, "finish_reason": "stop"}) + (_sse(None) if usage else b"") + b"data: [DONE]\n\n"
    words = [_sse({"delta": {"content": word(number)}, "finish_reason": None}) for number in range(chunks)]
    start = _sse({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})
    return [*(b"%x\r\n%b\r\n" % (len(text), text) for text in (start, *words, end)), b"0\r\n\r\n"]


def _sse(choice: dict[str, Any] | None) -> bytes:
    """Return a chunk, or without a choice the one that tells the usage."""
    content: dict[str, Any] = {**_HEAD, "object": "chat.completion.chunk"}
    content |= {"choices": [], "usage": _USAGE} if choice is None else {"choices": [{"index": 0, **choice}]}
    return b"data: " + orjson.dumps(content) + b"\n\n"


@cache
def _whole(chunks: int) -> bytes:
    message = {"role": "assistant", "content": "".join(map(word, range(chunks)))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _response({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _response(content: dict[str, Any]) -> bytes:
    body = orjson.dumps(content)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def serve(port: int) -> None:
    """Serve on a port of the loopback address until the process is ended."""
    server = await asyncio.get_running_loop().create_server(MockModel, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
