"""What each protocol streams for given bytes of a model, in files that somebody has looked at.

    python -m tests.support.golden_frames

writes the files anew.
"""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from flowpod.compat import stand_ins
from tests.support.flows import SESSION, client_of, write_chat_flow
from tests.support.serving import ROOT

FOLDER = ROOT / "tests" / "protocols" / "goldens"
_SSE = {"Accept": "text/event-stream"}
_DASHSCOPE_SSE = {"X-DashScope-SSE": "enable"}
_QUESTION = {"question": "hi"}
_MESSAGES = [{"role": "user", "content": "hi"}]

REQUESTS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "simple": ("/", _SSE, _QUESTION),
    "complete": ("/run", {}, {"inputs": _QUESTION, "stream": True}),
    "chat_completions": (
        "/v1/chat/completions",
        {},
        {"model": "m", "messages": _MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "responses": ("/v1/responses", {}, {"model": "m", "input": "hi", "stream": True}),
    "application": ("/api/v1/apps/a/completion", _DASHSCOPE_SSE, {"input": {"prompt": "hi"}, "parameters": {}}),
    "generation": (
        "/api/v1/services/aigc/text-generation/generation",
        _DASHSCOPE_SSE,
        {"model": "m", "input": {"messages": _MESSAGES}, "parameters": {"incremental_output": True}},
    ),
    "score": ("/score", _SSE, _QUESTION),
}
"""A streaming request of each protocol: its path, headers and body."""


def _event(delta: dict[str, Any] | None = None, *, index: int = 0, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": None}]
    content = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stand-in", "choices": choices}
    return b"data: %b\n\n" % orjson.dumps(content | more)


_END = b'data: {"id":"c","model":"stand-in","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
_DONE = b"data: [DONE]\n\n"
_WORDS = [_event({"content": word}) for word in ("One", " \u00e9t\u00e9", ' "\U0001f600"', "\n", "end.")]

SCENARIOS: dict[str, list[bytes]] = {
    "text": [*_WORDS, _END, _DONE],
    "reasoning": [
        *(_event({"reasoning_content": word}) for word in ("Let", " me")),
        _event({"reasoning_content": " think", "content": "So"}),
        *_WORDS,
        _END,
        _DONE,
    ],
    "usage_only": [*_WORDS, _END, _event(usage={"prompt_tokens": 11, "completion_tokens": 5}), _DONE],
    "error": [*_WORDS, b'data: {"error": {"message": "overloaded"}}\n\n'],
    "several_choices": [
        *(_event({"content": word}, index=index) for index, word in ((0, "fir"), (1, "sec"), (0, "st"), (1, "ond"))),
        _END,
        _DONE,
    ],
}
"""The events of a model's answer."""


def _one_read(events: Sequence[bytes]) -> list[bytes]:
    return [b"".join(events)]


def _a_read_each(events: Sequence[bytes]) -> list[bytes]:
    return list(events)


def _split_inside(events: Sequence[bytes]) -> list[bytes]:
    whole = b"".join(events)
    return [whole[start : start + 37] for start in range(0, len(whole), 37)]


def _crlf(events: Sequence[bytes]) -> list[bytes]:
    return [b"".join(events).replace(b"\n", b"\r\n")]


DELIVERIES: dict[str, Callable[[Sequence[bytes]], list[bytes]]] = {
    "one_read": _one_read,
    "a_read_each": _a_read_each,
    "split_inside": _split_inside,
    "crlf": _crlf,
}
"""How the events arrive: what is written to the connection at once."""


async def streamed(folder: Path, protocol: str, pieces: Sequence[bytes]) -> str:
    """Return what a protocol streams when the model sends these pieces, without ids and times."""
    path, headers, body = REQUESTS[protocol]
    async with _model(pieces) as url, client_of(write_chat_flow(folder, url)) as client:
        response = await client.post(path, json=body, headers={"Chat-Session-Id": SESSION, **headers})
    return _normalized(response.text)


@asynccontextmanager
async def _model(pieces: Sequence[bytes]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)  # so that the reader reads each piece alone
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


_IDS = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}|0x[0-9a-f]{32}")
_TIMES = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z?|(?<=\"created\":)\d+|(?<=_at\":)\d+(?:\.\d+)?|(?<=\"duration\":)[\d.e-]+"
)


def _normalized(text: str) -> str:
    """Return a stream with its ids numbered in the order in which they appear, and its times replaced."""
    known: dict[str, str] = {}
    numbered = _IDS.sub(lambda found: known.setdefault(found[0], f"<id {len(known) + 1}>"), text)
    return _TIMES.sub("<time>", numbered)


def golden(protocol: str, scenario: str) -> Path:
    """Return the file with what a protocol streams in a scenario."""
    return FOLDER / f"{protocol}-{scenario}.txt"


async def _write_all() -> None:
    FOLDER.mkdir(exist_ok=True)
    for protocol in REQUESTS:
        for scenario, events in SCENARIOS.items():
            with tempfile.TemporaryDirectory() as folder:
                text = await streamed(Path(folder), protocol, _one_read(events))
            golden(protocol, scenario).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    stand_ins.install()
    asyncio.run(_write_all())
