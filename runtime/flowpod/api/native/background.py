"""The headers and errors that requests about recorded runs share."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from starlette.requests import Request

from flowpod.api.http.middleware import SESSION_ID
from flowpod.api.http.requests import HISTORY_ROUNDS
from flowpod.api.openai.client_headers import CHAT_ID
from flowpod.background.reader import RunReader
from flowpod.errors import InvalidRequest, NotFound
from flowpod.jsonable import dumps
from flowpod.service import HISTORY_OFF, FlowService

IDEMPOTENCY_KEY = "Idempotency-Key"
ACCEPTED = 202
RUN: Literal["run"] = "run"
RESPONSE: Literal["response"] = "response"
"""The protocol that recorded a run, stored as `kind` in the recording's details."""

_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")


def read_idempotency_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key, None without one; raises InvalidRequest for an invalid key."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not _KEY.fullmatch(key):
        message = f"{IDEMPOTENCY_KEY} must have 1 to 255 printable ASCII characters"
        raise InvalidRequest(message, param=IDEMPOTENCY_KEY, code="invalid_idempotency_key")
    return key


def request_content(request: Request, kind: str, body: Mapping[str, Any]) -> bytes:
    """Return everything that a request's run depends on, except its user, for comparing requests with one key."""
    headers = [request.headers.get(name) for name in (SESSION_ID, CHAT_ID, HISTORY_ROUNDS)]
    return dumps([kind, headers, body])


def run_reader_of(service: FlowService) -> RunReader:
    """Return the reader of the service's recorded runs; raises NotFound where no runs are recorded."""
    if service.run_queue is None:
        raise NotFound(f"this service records no runs: {HISTORY_OFF}", code="no_recorded_runs")
    return service.run_queue.reader
