"""A client that is not the bottleneck: asks over kept connections, times every answer and checks its text.

    echo '{"url": "http://127.0.0.1:8080", ...}' | python -m tests.bench.load

reads a `Load` as JSON and prints a `LoadResult` as JSON. Each connection asks again as soon as it has its answer; after
`seconds` no request begins any more, and the result is there when the last answer is. A wrong answer is an error.
"""

import asyncio
import json
import re
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

UNIQUE = "@UNIQUE-IN-EVERY-REQUEST-32-LONG"
"""Stands in a path, a header or a body for 32 characters that no other request has."""
_UNIQUE = UNIQUE.encode()
_OPENING = 64


@dataclass(frozen=True)
class Ask:
    """One request, and how the text of the answer is found in what comes back.

    `text` is a pattern with one group: what it finds is, joined, the answer. `follow` is a pattern with one group, for
    servers where an answer is fetched by a second request: its path is `then` with the group in it, and `text` is found
    in what that brings.
    """

    path: str
    body: dict[str, Any]
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    follow: str = ""
    then: str = ""


@dataclass(frozen=True)
class Load:
    """What one run of the client does; with `seconds` 0 every connection asks once.

    Unless `kept`, each request has a connection of its own. With `hold` at most 64 streams at once wait for their first text; it prints how many have begun once all have, or
    after so many seconds, and goes on.
    """

    url: str
    ask: Ask
    answer: str
    concurrency: int
    seconds: float = 0.0
    hold: float = 0.0
    kept: bool = True


@dataclass(frozen=True)
class LoadResult:
    """What came of it; times in seconds, `cpu_s` the client's own, `text_bytes` those of the answers."""

    requests: int
    seconds: float
    text_bytes: int
    p50_s: float
    p99_s: float
    first_p50_s: float
    first_p99_s: float
    cpu_s: float
    errors: Sequence[str]


class _Connection(asyncio.Protocol):
    """Sends requests one after the other and collects each response."""

    def __init__(self, first: re.Pattern[bytes], on_first: Callable[[], None]) -> None:
        self._first = first
        self._on_first = on_first
        self._buffer = bytearray()
        self._body_at = 0
        self._length = 0
        self._waiting: asyncio.Future[bytes] | None = None
        self.first_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting and not self._waiting.done():
            message = f"the server closed the connection after {bytes(self._buffer[-300:])!r}"
            self._waiting.set_exception(ConnectionResetError(message))

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future is the response's body, or ConnectionResetError."""
        self._buffer.clear()
        self._body_at, self.first_s = 0, 0.0
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body_at = end + 4
            length = re.search(rb"\r\ncontent-length: *(\d+)", buffer[: end + 2], re.IGNORECASE)
            self._length = int(length[1]) if length else -1
        if not self.first_s and self._first.search(buffer, self._body_at):
            self.first_s = time.perf_counter()
            self._on_first()
        body = self._body()
        if body is not None and self._waiting and not self._waiting.done():
            status = bytes(buffer[9:12])
            if status in (b"200", b"202"):
                self._waiting.set_result(body)
            else:
                self._waiting.set_exception(ConnectionResetError(f"status {status!r}: {body[:300]!r}"))

    def _body(self) -> bytes | None:
        buffer = self._buffer
        if self._length >= 0:
            return bytes(buffer[self._body_at :]) if len(buffer) - self._body_at >= self._length else None
        return unchunked(buffer, self._body_at) if buffer.endswith(b"\r\n0\r\n\r\n") else None


def unchunked(buffer: bytes | bytearray, at: int) -> bytes | None:
    """Return the body that begins at `at` in chunked encoding, or None while it is not whole."""
    parts: list[bytes] = []
    while (line := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line], 16)
        if not size:
            return b"".join(parts)
        parts.append(bytes(buffer[line + 2 : line + 2 + size]))
        at = line + 4 + size
    return None


class _Client:
    """All connections of one load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._address = urlsplit(load.url)
        self._text = re.compile(load.ask.text.encode())
        self._follow = re.compile(load.ask.follow.encode()) if load.ask.follow else None
        self._request = _rendered("POST", load.ask.path, self._address.netloc, load.ask.headers, load.ask.body)
        self._unique = uuid.uuid4().hex[:22]
        self._count = 0
        self._begun = 0
        self.times: list[float] = []
        self.firsts: list[float] = []
        self.text_bytes = 0
        self.errors: list[str] = []
        self._all_begun = asyncio.Event()
        self._opening = asyncio.Semaphore(_OPENING)

    async def talk(self, until: float) -> None:
        """Ask over one connection until the time is over."""
        loop = asyncio.get_running_loop()
        host, port = self._address.hostname or "", self._address.port or 80
        connection: _Connection | None = None
        while True:
            if self._load.hold:
                await self._opening.acquire()
            try:
                if connection is None or connection.transport.is_closing():
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self._text, self._began), host, port
                    )
                await self._turn(connection)
                if not self._load.kept:
                    connection.transport.close()
            except OSError as error:
                self.errors.append(str(error))
                self._opening.release()
                if connection is not None:
                    connection.transport.abort()
                connection = None
                if len(self.errors) >= 20:
                    return
            if time.perf_counter() >= until:
                break
        if connection is not None:
            connection.transport.close()

    async def _turn(self, connection: _Connection) -> None:
        self._count += 1
        unique = b"%b%010d" % (self._unique.encode(), self._count)
        begun = time.perf_counter()
        waiting = connection.ask(self._request.replace(_UNIQUE, unique))
        if self._follow is not None:
            found = self._follow.search(await waiting)
            if found is None:
                raise ConnectionResetError("the first answer does not say where the second one is")
            path = self._load.ask.then.format(found[1].decode())
            waiting = connection.ask(_rendered("GET", path, self._address.netloc, self._load.ask.headers, None))
        body = await waiting
        ended = time.perf_counter()
        text = b"".join(self._text.findall(body))
        if text.decode() != self._load.answer:
            self.errors.append(f"a wrong answer: {body[:500]!r}")
            return
        self.text_bytes += len(text)
        self.times.append(ended - begun)
        self.firsts.append(connection.first_s - begun)

    def _began(self) -> None:
        self._begun += 1
        self._opening.release()
        if self._begun >= self._load.concurrency:
            self._all_begun.set()

    async def tell_when_begun(self) -> None:
        """Print how many streams have begun, once all have or the time for it is over."""
        with suppress(TimeoutError):  # then it is not all of them, as the number says
            await asyncio.wait_for(self._all_begun.wait(), self._load.hold)
        print(self._begun, flush=True)


def _rendered(method: str, path: str, host: str, headers: dict[str, str], body: dict[str, Any] | None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def run(load: Load) -> LoadResult:
    """Do what `load` says."""
    client = _Client(load)
    begun, cpu = time.perf_counter(), time.process_time()
    talks = [client.talk(begun + load.seconds) for _ in range(load.concurrency)]
    if load.hold:
        talks.append(client.tell_when_begun())
    await asyncio.gather(*talks)
    taken = time.perf_counter() - begun
    p50, p99 = _quantiles(client.times)
    first_p50, first_p99 = _quantiles(client.firsts)
    cpu_s, errors = time.process_time() - cpu, client.errors[:5]
    return LoadResult(len(client.times), taken, client.text_bytes, p50, p99, first_p50, first_p99, cpu_s, errors)


def _quantiles(times: Sequence[float]) -> tuple[float, float]:
    if len(times) < 2:
        return (times[0], times[0]) if times else (0.0, 0.0)
    return statistics.median(times), statistics.quantiles(times, n=100, method="inclusive")[98]


def main() -> None:
    """Read the load from the standard input; a command line cannot hold a large question."""
    given = json.load(sys.stdin)
    load = Load(**{**given, "ask": Ask(**given["ask"])})
    print(json.dumps(asdict(uvloop.run(run(load)))))


if __name__ == "__main__":
    main()
