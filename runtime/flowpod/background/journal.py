"""The journal of a process: writes the events of its recorded runs to the database, many runs at once.

Every instance reads them there. A run whose instance does not renew its lease has failed; the first instance that
notices stores that.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from flowpod.background.event_buffer import EventBuffer, termination_events
from flowpod.background.event_json import event_to_json
from flowpod.background.leases import LOOKS, LeaseWatch
from flowpod.errors import RunError
from flowpod.ids import new_uuid
from flowpod.storage.availability import FAILURES, Availability, is_set_within, reason_of
from flowpod.storage.runs.records import EventBatch
from flowpod.storage.runs.store import RunStore
from flowpod.storage.schema import ACTIVE

logger = logging.getLogger(__name__)

BATCH_S = 0.25
_LOST = "instance_lost"
_RETRY_S = 1.0
_MAX_TRIES_ALONE = 5
_MAX_RUNS_PER_WRITE = 500
_CLOSE_TIMEOUT_S = 5.0


class Journal:
    """Writes the buffers of one process every 250 ms, and at once when a run ends."""

    def __init__(self, store: RunStore, availability: Availability, lease_s: float) -> None:
        self.owner = new_uuid()
        self._store = store
        self._availability = availability
        self._lease_s = lease_s
        self._watch = LeaseWatch(lease_s)
        self._buffers: dict[str, EventBuffer] = {}
        self._flush = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lease_until(self) -> datetime:
        """The end of a lease that starts now. It only has to differ from that of the lease before."""
        return datetime.now(UTC) + timedelta(seconds=self._lease_s)

    def open(self) -> None:
        """Start to write."""
        self._tasks = {asyncio.create_task(self._write_buffers()), asyncio.create_task(self._keep_leases())}

    async def close(self) -> None:
        """Write the remaining events; waits for that for some seconds."""
        self._closing.set()
        self._flush.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._tasks = set()
        for buffer in self._buffers.values():
            logger.error("run %s: its end is not stored", buffer.run_id)

    def open_buffer(self, run_id: str, cancel: Callable[[str], None]) -> EventBuffer:
        """Return a buffer for the events of a run whose record is in the database."""
        buffer = self._buffers[run_id] = EventBuffer(run_id, cancel, self._flush)
        return buffer

    async def _write_buffers(self) -> None:
        while not self._closing.is_set() or any(buffer.has_unwritten for buffer in self._buffers.values()):
            await is_set_within(self._flush, BATCH_S)
            self._flush.clear()
            due = [buffer for buffer in self._buffers.values() if buffer.has_unwritten]
            for start in range(0, len(due), _MAX_RUNS_PER_WRITE):
                try:
                    await self._write(due[start : start + _MAX_RUNS_PER_WRITE])
                except Exception:  # the other runs' events must still be written
                    logger.exception("a bug in Flowpod while storing events")

    async def _write(self, buffers: Sequence[EventBuffer]) -> None:
        """Store the next batch of each buffer, however long that takes."""
        batches = [(buffer, batch) for buffer in buffers if (batch := self._next_batch(buffer)) is not None]
        if not batches or not await self._append(batches):
            return
        await self._wait_until_writable()
        if await self._append(batches):
            for buffer, batch in batches:  # one by one: one run may be the cause
                await self._write_alone(buffer, batch)

    def _next_batch(self, buffer: EventBuffer) -> EventBatch | None:
        try:
            return buffer.next_batch()
        except Exception:
            logger.exception("run %s: a bug in Flowpod", buffer.run_id)
            self._fail_run(buffer, "a bug in Flowpod")
            return None

    async def _write_alone(self, buffer: EventBuffer, batch: EventBatch) -> None:
        for _ in range(_MAX_TRIES_ALONE):
            await self._wait_until_writable()
            if not (reason := await self._append([(buffer, batch)])):
                return
        self._fail_run(buffer, reason)

    def _fail_run(self, buffer: EventBuffer, reason: str) -> None:
        logger.error("run %s: its events cannot be stored: %s", buffer.run_id, reason)
        if buffer.failure is None:
            buffer.fail_run()
        else:  # the failure cannot be stored either: the run fails when its lease expires
            self._close_buffer(buffer)

    async def _append(self, batches: Sequence[tuple[EventBuffer, EventBatch]]) -> str:
        """Store batches; return why that failed, or ""."""
        try:
            lost = await self._store.append_events(self.owner, [batch for _, batch in batches])
        except FAILURES as error:
            return reason_of(error)
        except Exception as error:
            logger.exception("a bug in Flowpod while storing events")
            return f"internal error: {type(error).__name__}"
        self._mark_lost(lost)
        for buffer, batch in batches:
            if batch.status not in ACTIVE:
                self._close_buffer(buffer)
        return ""

    async def _wait_until_writable(self) -> None:
        """Wait until the database accepts writes that are always valid."""
        while True:
            await self._availability.available.wait()
            try:
                await self._store.check_writes()
                await self._renew()
                return
            except FAILURES as error:
                self._availability.mark_unavailable(error)
            except Exception:  # the batches must not be lost
                logger.exception("a bug in Flowpod while checking the database")
            await asyncio.sleep(_RETRY_S)

    def _close_buffer(self, buffer: EventBuffer) -> None:
        self._buffers.pop(buffer.run_id, None)
        buffer.discard_events()

    def _mark_lost(self, run_ids: Iterable[str]) -> None:
        """Cancel runs that this process no longer owns; their end is what the database says."""
        for run_id in run_ids:
            if (buffer := self._buffers.pop(run_id, None)) is not None:
                logger.error("run %s: it was deleted, or no longer belongs to this instance", run_id)
                message = "the run was deleted, or failed because this instance had not renewed its lease in time"
                buffer.mark_lost(RunError(message, code=_LOST).info)

    async def _keep_leases(self) -> None:
        """Renew this process's leases, then look for those that others no longer renew."""
        while not self._closing.is_set():
            pause_s = _RETRY_S
            try:
                if self._availability.failure:
                    self._watch.restart()
                else:
                    await self._renew()
                    await self._fail_lost_runs()
                    pause_s = self._lease_s / LOOKS
            except FAILURES as error:
                self._availability.mark_unavailable(error)
            except Exception:
                logger.exception("a bug in Flowpod while renewing leases")
            await is_set_within(self._closing, pause_s)

    async def _renew(self) -> None:
        """Renew the leases of the runs that have a buffer; all others expire."""
        owned = list(self._buffers)
        for start in range(0, len(owned), _MAX_RUNS_PER_WRITE):
            run_ids = owned[start : start + _MAX_RUNS_PER_WRITE]
            self._mark_lost(await self._store.renew_leases(self.owner, run_ids, self.lease_until))

    async def _fail_lost_runs(self) -> None:
        for lease in self._watch.expired(await self._store.list_leases(self.owner)):
            while run_ids := await self._store.fail_lost_runs(lease, self._lost_events):
                for run_id in run_ids:
                    logger.error("run %s: Failed, because its instance is gone", run_id)

    def _lost_events(self, run_id: str, count: int) -> list[object]:
        error = RunError(
            f"the instance that executed the run has ended, or could not reach the database for {self._lease_s:g} s; "
            "how far the run got is not known",
            code=_LOST,
        ).info
        return [event_to_json(event) for event in termination_events(run_id, error, "Failed", started=count > 0)]
