"""What requests about recorded runs have in common."""

import re
from typing import Literal

from starlette.requests import Request

from runtime.errors import InvalidRequest, NotFound
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
