"""Server-sent events: streams frames to the client. The only module that uses sse-starlette."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus
from starlette.types import Receive, Scope, Send

from flowpod.engine.events import Event, Readable, RunTerminated

_HEADERS = {"Cache-Control": "no-cache, no-transform"}
_MAX_WRITE = 256 * 1024  # bytes
_COMMENT = b": ping\n\n"


def keep_streams_on_shutdown() -> None:
    """Keep sse-starlette from cutting streams at SIGTERM: a stream ends only when its run ends."""
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # the library has no types here


class EventStream(EventSourceResponse):
    """Streams encoded frames until they end or the client disconnects, then closes their generator and calls `leave`.

    A comment is sent after `heartbeat_s` seconds of silence. The request's own task writes, beside one task that waits
    for the disconnect and one timer. The base class would start a task group of four, and a time limit for each write:
    a tenth of the CPU time of a streamed run.
    """

    def __init__(
        self, frames: AsyncGenerator[bytes, None], heartbeat_s: float, leave: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(frames, headers=_HEADERS, sep="\n", ping=heartbeat_s)
        self._frames = frames
        self._leave = leave
        self._client_left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        writer = asyncio.current_task()
        assert writer is not None
        watcher = asyncio.create_task(self._watch(receive, writer))
        try:
            async with aclosing(self._frames):
                await self._write(send)
        except asyncio.CancelledError:
            if not self._client_left:
                raise
            writer.uncancel()
        finally:
            watcher.cancel()
            self._leave()  # not left to the generator: one that has not started runs no code when it is closed

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        heartbeat = _Heartbeat(send, self.ping_interval)
        try:
            async for data in self._frames:
                heartbeat.pause()
                await send({"type": "http.response.body", "body": data, "more_body": True})
                heartbeat.resume()
        finally:
            heartbeat.stop()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive, writer: "asyncio.Task[None]") -> None:
        """Cancel the writer when the client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._client_left = True
        writer.cancel()


class _Heartbeat:
    """Sends a comment after each `interval_s` seconds of silence. Its timer is set again only when it fires."""

    def __init__(self, send: Send, interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._silent_since: float | None = self._loop.time()
        self._timer = self._loop.call_later(interval_s, self._fire)
        self._comment: asyncio.Future[None] | None = None

    def pause(self) -> None:
        """Send no comment from now on: a frame is being written."""
        self._silent_since = None

    def resume(self) -> None:
        """Count the silence from now on."""
        self._silent_since = self._loop.time()

    def stop(self) -> None:
        """Send no further comment."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    def _fire(self) -> None:
        now = self._loop.time()
        left = self._interval_s - (0 if self._silent_since is None else now - self._silent_since)
        if left <= 0:
            message = {"type": "http.response.body", "body": _COMMENT, "more_body": True}
            self._comment = asyncio.ensure_future(self._send(message))
            self._silent_since, left = now, self._interval_s
        self._timer = self._loop.call_later(left, self._fire)


def event_stream(run: Readable, encode: Callable[[Event], bytes], heartbeat_s: float) -> EventStream:
    """Return the response that streams a run. If the client disconnects, the run is cancelled."""
    return EventStream(_frames(run, encode), heartbeat_s, run.leave)


async def _frames(run: Readable, encode: Callable[[Event], bytes]) -> AsyncGenerator[bytes, None]:
    async for batch in run.events.batches():
        # Waiting events are sent as one chunk: each chunk costs a system call here and one at the client.
        frames, size = list[bytes](), 0
        for event in batch:
            frame = encode(event)
            if isinstance(event, RunTerminated) and event.history:
                frame = b": X-Flowpod-History: %b\n\n%b" % (event.history.encode(), frame)
            frames.append(frame)
            size += len(frame)
            if size >= _MAX_WRITE:  # frames that repeat the whole text could add up to gigabytes
                yield b"".join(frames)
                frames, size = [], 0
        if size:
            yield b"".join(frames)
