"""What requests about recorded runs have in common."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from starlette.requests import Request

from runtime.api.body import HISTORY_ROUNDS
from runtime.api.middleware import SESSION_ID
from runtime.api.openai_caller import CHAT_ID
from runtime.errors import InvalidRequest, NotFound
from runtime.jsonable import dumps
from runtime.run.recorder import Recorder
from runtime.run.records import Records
from runtime.run.service import FlowService

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


def recorder_of(service: FlowService) -> Recorder:
    """Return what records the service's runs; raises InvalidRequest where nothing does."""
    if service.recorder is None:
        message = f"background: this service has no background runs: {_OFF}"
        raise InvalidRequest(message, param="background", code="no_recorded_runs")
    return service.recorder


def records_of(service: FlowService) -> Records:
    """Return the service's recorded runs; raises NotFound where there are none."""
    if service.recorder is None:
        raise NotFound(f"this service records no runs: {_OFF}", code="no_recorded_runs")
    return service.recorder.records
