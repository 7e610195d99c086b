"""Server-sent events: a run's events go out as bytes. The only module that knows sse-starlette."""

from collections.abc import AsyncIterator, Callable

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus

from flowpod.engine.events import Event, Readable

Encode = Callable[[Event], bytes]

_HEADERS = {"Cache-Control": "no-cache, no-transform"}


def let_runs_end_streams() -> None:
    """Keep sse-starlette from cutting streams at SIGTERM: a stream ends because its run ended."""
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # the library has no types here


def event_stream(run: Readable, encode: Encode, heartbeat_s: float) -> EventSourceResponse:
    """Return the response that streams a run; its headers go out at once.

    A stream that is silent for `heartbeat_s` seconds gets a comment. A reader that leaves cancels the run.
    """
    return stream_of(_frames(run, encode), heartbeat_s)


def stream_of(frames: AsyncIterator[bytes], heartbeat_s: float) -> EventSourceResponse:
    """Return the response that streams ready frames, with a comment when it is silent for `heartbeat_s` seconds."""
    return EventSourceResponse(
        frames,
        headers=_HEADERS,
        sep="\n",
        ping=heartbeat_s,
        ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
    )


async def _frames(run: Readable, encode: Encode) -> AsyncIterator[bytes]:
    try:
        async for batch in run.events.batches():
            # All that waits goes out in one piece: each piece costs a system call here and one at the reader.
            if data := b"".join(map(encode, batch)):
                yield data
    finally:
        run.leave()
