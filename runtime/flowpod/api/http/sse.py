"""Server-sent events: streams frames to the client. The only module that uses sse-starlette."""

from collections.abc import AsyncIterator, Callable

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus

from flowpod.engine.events import Event, Readable, RunTerminated

_MAX_WRITE = 256 * 1024  # bytes
_HEADERS = {"Cache-Control": "no-cache, no-transform"}


def keep_streams_on_shutdown() -> None:
    """Keep sse-starlette from cutting streams at SIGTERM: a stream ends only when its run ends."""
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # the library has no types here


def event_stream(run: Readable, encode: Callable[[Event], bytes], heartbeat_s: float) -> EventSourceResponse:
    """Return the response that streams a run; its headers are sent at once.

    A stream that is silent for `heartbeat_s` seconds gets a comment. If the client disconnects, the run is cancelled.
    """
    return stream_of(_frames(run, encode), heartbeat_s)


def stream_of(frames: AsyncIterator[bytes], heartbeat_s: float) -> EventSourceResponse:
    """Return the response that streams encoded frames, with a comment after `heartbeat_s` seconds of silence."""
    return EventSourceResponse(
        frames,
        headers=_HEADERS,
        sep="\n",
        ping=heartbeat_s,
        ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
    )


async def _frames(run: Readable, encode: Callable[[Event], bytes]) -> AsyncIterator[bytes]:
    try:
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
    finally:
        run.leave()
