"""The journal of a process: what its recorded runs tell goes to the database, that of all runs together.

Any instance reads it there. A run whose instance does not renew its lease has died with it, which whoever finds out
first writes down.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from flowpod.background.event_buffer import EventBuffer, termination_events
from flowpod.background.event_json import to_json
from flowpod.errors import RunError
from flowpod.storage.availability import FAILURES, Availability, reason_of
from flowpod.storage.runs.records import EventBatch, RecordedRun
from flowpod.storage.runs.store import RunStore
from flowpod.storage.schema import ACTIVE

logger = logging.getLogger(__name__)

BATCH_S = 0.25
LEASE_S = 30.0
_LOST = "instance_lost"
_RENEW_S = 10.0
_RETRY_S = 1.0
_TRIES_ALONE = 5
_RUNS_AT_ONCE = 500
_CLOSE_S = 5.0


class Journal:
    """Writes the recordings of one process, each 250 ms and at once when a run ends."""

    def __init__(self, store: RunStore, availability: Availability) -> None:
        self.owner = str(uuid.uuid4())
        self._store = store
        self._availability = availability
        self._recordings: dict[str, EventBuffer] = {}
        self._hurry = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lease_until(self) -> datetime:
        """Until when a lease that is taken now lasts."""
        return datetime.now(UTC) + timedelta(seconds=LEASE_S)

    def open(self) -> None:
        """Begin to write."""
        self._tasks = {asyncio.create_task(self._keep_writing()), asyncio.create_task(self._keep_leases())}

    async def close(self) -> None:
        """Write what waits, and wait for that some seconds."""
        self._closing.set()
        self._hurry.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._tasks = set()
        for recording in self._recordings.values():
            logger.error("run %s: its end is not stored", recording.run_id)

    def record(self, run_id: str, cancel: Callable[[str], None]) -> EventBuffer:
        """Begin to record a run that is in the database already."""
        recording = EventBuffer(run_id, cancel, self._hurry)
        self._recordings[run_id] = recording
        return recording

    async def fail_if_expired(self, run: RecordedRun) -> bool:
        """Fail a run whose instance does not renew its lease; return whether the run has changed, by us or others.

        Nobody's while the database is away, and when it is back each instance has the time of a lease to renew its own.
        """
        now = datetime.now(UTC)
        if not run.active or run.lease_until > now or time.monotonic() < self._availability.recovered_at + LEASE_S:
            return False

        def end(count: int) -> list[object]:
            error = RunError(
                "the instance that performed the run has ended, or could not reach the database for "
                f"{LEASE_S:g} s; how far the run got is not known",
                code=_LOST,
            ).info
            return [to_json(event) for event in termination_events(run.run_id, error, "Failed", begun=count > 0)]

        failed = await self._store.fail_expired(run.run_id, now, end)
        if failed:
            logger.error("run %s: Failed, since its instance is gone", run.run_id)
        return True

    async def _keep_writing(self) -> None:
        while not (self._closing.is_set() and not any(one.is_due for one in self._recordings.values())):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), BATCH_S)
            self._hurry.clear()
            due = [one for one in self._recordings.values() if one.is_due]
            for start in range(0, len(due), _RUNS_AT_ONCE):
                try:
                    await self._write(due[start : start + _RUNS_AT_ONCE])
                except Exception:  # it must not end the writing of all others
                    logger.exception("a bug in Flowpod, met while events were stored")

    async def _write(self, recordings: Sequence[EventBuffer]) -> None:
        """Store what waits of these runs, however long that takes."""
        batches = [(one, batch) for one in recordings if (batch := self._batch_of(one)) is not None]
        if not batches or not await self._refused(batches):
            return
        await self._until_writable()
        if await self._refused(batches):
            for one in batches:  # one by one: it may be the trouble of one of them only
                await self._write_alone(*one)

    def _batch_of(self, recording: EventBuffer) -> EventBatch | None:
        try:
            return recording.take()
        except Exception:
            logger.exception("run %s: a bug in Flowpod", recording.run_id)
            self._refuse(recording, "a bug in Flowpod")
            return None

    async def _write_alone(self, recording: EventBuffer, batch: EventBatch) -> None:
        for _ in range(_TRIES_ALONE):
            await self._until_writable()
            if not (reason := await self._refused([(recording, batch)])):
                return
        self._refuse(recording, reason)

    def _refuse(self, recording: EventBuffer, reason: str) -> None:
        """Store that a run has failed, in place of what it told last."""
        logger.error("run %s: its events cannot be stored: %s", recording.run_id, reason)
        if recording.failure is None:
            recording.refuse(reason)
        else:  # nor can that be: it fails when its lease has run out
            self._let_go(recording)

    async def _refused(self, batches: Sequence[tuple[EventBuffer, EventBatch]]) -> str:
        """Store batches; return why that failed, or ""."""
        try:
            lost = await self._store.append_events(self.owner, [batch for _, batch in batches])
        except FAILURES as error:
            return reason_of(error)
        except Exception as error:
            logger.exception("a bug in Flowpod, met while events were stored")
            return f"internal error: {type(error).__name__}"
        self._lose(lost)
        for recording, batch in batches:
            if batch.status not in ACTIVE:
                self._let_go(recording)
        return ""

    async def _until_writable(self) -> None:
        """Wait until the database takes what it has no reason to refuse, a renewal of the leases."""
        while True:
            await self._availability.available.wait()
            try:
                await self._renew()
                return
            except FAILURES as error:
                self._availability.mark_unavailable(error)
            except Exception:  # what is taken must not be lost
                logger.exception("a bug in Flowpod, met while leases were renewed")
            await asyncio.sleep(_RETRY_S)

    def _let_go(self, recording: EventBuffer) -> None:
        self._recordings.pop(recording.run_id, None)
        recording.let_go()

    def _lose(self, run_ids: Iterable[str]) -> None:
        """End runs that are not this process's any more: what the database says of them is what became of them."""
        for run_id in run_ids:
            if (recording := self._recordings.pop(run_id, None)) is not None:
                logger.error("run %s: it is not this instance's any more, or was deleted", run_id)
                recording.lose(
                    RunError("its record is gone, or another instance took this one for dead", code=_LOST).info
                )

    async def _keep_leases(self) -> None:
        while not self._closing.is_set():
            pause = _RETRY_S
            if not self._availability.failure:
                try:
                    await self._renew()
                    for run in await self._store.list_expired(datetime.now(UTC)):
                        await self.fail_if_expired(run)
                    pause = _RENEW_S
                except FAILURES as error:
                    self._availability.mark_unavailable(error)
                except Exception:
                    logger.exception("a bug in Flowpod, met while leases were renewed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)

    async def _renew(self) -> None:
        """Renew the leases of the runs that this process holds: one that nobody holds fails in time."""
        held = list(self._recordings)
        for start in range(0, len(held), _RUNS_AT_ONCE):
            some = held[start : start + _RUNS_AT_ONCE]
            self._lose(await self._store.renew_leases(self.owner, some, self.lease_until))
