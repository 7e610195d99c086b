"""What requests about recorded runs have in common."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from starlette.requests import Request

from flowpod.api.http.middleware import SESSION_ID
from flowpod.api.http.requests import HISTORY_ROUNDS
from flowpod.api.openai.client_headers import CHAT_ID
from flowpod.background.queue import RunQueue
from flowpod.background.reader import RunReader
from flowpod.errors import InvalidRequest, NotFound
from flowpod.jsonable import dumps
from flowpod.service import FlowService

IDEMPOTENCY_KEY = "Idempotency-Key"
ACCEPTED = 202
RUN: Literal["run"] = "run"
RESPONSE: Literal["response"] = "response"
"""By which protocol a run was recorded: its facts say so under `kind`."""

_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_OFF = "FLOWPOD_HISTORY is off, and its database is where they are kept"


def read_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key; raises InvalidRequest for one that breaks its rule."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not _KEY.fullmatch(key):
        message = f"{IDEMPOTENCY_KEY} must have 1 to 255 printable ASCII characters"
        raise InvalidRequest(message, param=IDEMPOTENCY_KEY, code="invalid_idempotency_key")
    return key


def asked_by(request: Request, kind: str, content: Mapping[str, Any]) -> bytes:
    """Return all of a request that its run depends on, but for its user; those with one key must agree in it."""
    headers = [request.headers.get(name) for name in (SESSION_ID, CHAT_ID, HISTORY_ROUNDS)]
    return dumps([kind, headers, content])


def run_queue_of(service: FlowService) -> RunQueue:
    """Return what records the service's runs; raises InvalidRequest where nothing does."""
    if service.background is None:
        message = f"background: this service has no background runs: {_OFF}"
        raise InvalidRequest(message, param="background", code="no_recorded_runs")
    return service.background


def run_reader_of(service: FlowService) -> RunReader:
    """Return the service's recorded runs; raises NotFound where there are none."""
    if service.background is None:
        raise NotFound(f"this service records no runs: {_OFF}", code="no_recorded_runs")
    return service.background.reader
