"""From a run to its response, the same for every protocol: stream its events, or fold them into one JSON body."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.errors import DO_NOT_RETRY, RUN_FAILED, JsonResponse
from flowpod.api.http.outcome import Outcome, fold
from flowpod.api.http.sse import event_stream
from flowpod.engine.events import Event, Readable, RunOutput
from flowpod.errors import ErrorInfo
from flowpod.jsonable import dumps
from flowpod.models.base import slices_of

_MARK = f"chunk-{secrets.token_hex(16)}"
_QUOTED_MARK = dumps(_MARK)


class RunEncoder(Protocol):
    """Encodes one run in a protocol's format."""

    def encode(self, event: Event) -> bytes:
        """Return the frames of an event, one for each chunk merged into it; b"" if the protocol does not show it."""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the JSON body of a run that has ended, whether it completed or failed."""


def chunk_frames(event: RunOutput, encode: Callable[[Event], bytes]) -> bytes:
    """Return a frame for each chunk that was merged into `event`, equal to what `encode` returns for each alone.

    `encode` must depend on the text of a chunk only by showing it once as JSON, or not at all. It is called once, with
    a mark as the text; what it returns before and after the mark is the same for all chunks.
    """
    text = event.delta or event.reasoning
    delta, reasoning = (_MARK, "") if event.delta else ("", _MARK)
    marked = replace(event, delta=delta, reasoning=reasoning, chunk_lengths=())
    head, mark, tail = encode(marked).partition(_QUOTED_MARK)
    if not mark:
        return b""
    return head + (tail + head).join([dumps(text[part]) for part in slices_of(event.chunk_lengths)]) + tail


async def respond(
    run: Readable,
    request: Request,
    encoder: RunEncoder,
    *,
    streaming: bool,
    heartbeat_s: float,
    failure_status: Callable[[ErrorInfo], int] = lambda _: RUN_FAILED,
) -> Response:
    """Return the response to the request that started `run`.

    `heartbeat_s` is the silence after which a stream gets a comment, in seconds. A failed run whose status is one that
    clients retry gets a header that asks them not to, because the flow has run.
    """
    if streaming:
        return event_stream(run, encoder.encode, heartbeat_s)
    outcome = await fold(run, request)
    error = outcome.terminated.error
    if error is None:
        return JsonResponse(encoder.body(outcome))
    status = failure_status(error)
    return JsonResponse(encoder.body(outcome), status, None if status == RUN_FAILED else DO_NOT_RETRY)
