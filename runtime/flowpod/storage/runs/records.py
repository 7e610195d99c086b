"""A recorded run as `RunStore` takes and returns it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flowpod.storage.runs.continuations import Continuation
from flowpod.storage.schema import ACTIVE, RecordStatus


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a process on some of its runs. Each renewal changes `until`, by the clock of `owner`."""

    owner: str
    until: datetime


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be recorded.

    `facts` is the JSON that its protocol needs to present it later. `key` stands for the caller and its
    Idempotency-Key, and `fingerprint` for the content of the request.
    """

    run_id: str
    session_id: str
    user_id: str | None
    facts: Mapping[str, Any]
    key: str | None = None
    fingerprint: str = ""
    continuation: Continuation | None = None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A recorded run; `last_event` is the number of its newest event, 0 when it has none."""

    run_id: str
    session_id: str
    user_id: str | None
    fingerprint: str
    facts: Mapping[str, Any]
    status: RecordStatus
    last_event: int
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether the run has not ended."""
        return self.status in ACTIVE


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive events of a run as JSON, `last` being the number of the last one, and the run's status after it."""

    run_id: str
    events: Sequence[Any]
    last: int
    status: RecordStatus
    started_at: datetime | None
    finished_at: datetime | None
