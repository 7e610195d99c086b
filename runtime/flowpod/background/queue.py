"""Runs that outlive their request: recorded, so that any instance tells of them, and queued where there are many."""

import asyncio
import hashlib
import logging
import uuid
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flowpod.background.event_buffer import EventBuffer, QueuedRun, RecordedStream
from flowpod.background.journal import Journal
from flowpod.background.reader import RunReader
from flowpod.engine.events import Event, EventChannel, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.engine.run import Run
from flowpod.errors import FlowpodError, InvalidRequest, RunError, TooManyRuns
from flowpod.storage.availability import FAILURES, Availability, reason_of
from flowpod.storage.database import Database
from flowpod.storage.runs.cancel_requests import CancelRequests
from flowpod.storage.runs.continuations import Continuation
from flowpod.storage.runs.records import NewRun, RecordedRun
from flowpod.storage.runs.store import RunStore

logger = logging.getLogger(__name__)

ASKED = "a client asked for that"
_ASK_S = 1.0
_CLOSE_S = 5.0
_CLEAN_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Background runs at once in a process, how many may wait, and for how many days ended runs are kept.

    `write_timeout_s` is how long a reader waits for the run's end to be stored, `max_waiting_bytes` how large the
    requests of all that wait may be together.
    """

    max_runs: int = 100
    max_waiting: int = 1000
    days: float = 30.0
    write_timeout_s: float = 2.0
    max_waiting_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Recording:
    """How a run is recorded: `facts` are what its protocol needs to show it.

    `key` is the caller's Idempotency-Key and `content` what was asked with it; `reply` says with what the run goes on.
    """

    facts: Mapping[str, Any]
    key: str | None = None
    content: bytes = b""
    reply: Continuation | None = None


class Runs(Protocol):
    """What the recorder needs of the service that performs runs."""

    async def check(self, request: RunRequest, *, limited: bool) -> None:
        """Raise what `start` would."""

    async def start(self, request: RunRequest, *, run_id: str | None, limited: bool) -> Run:
        """Start a run."""

    def running(self, run_id: str) -> Run | None:
        """Return a run of this process that is performed now."""

    @property
    def busy(self) -> bool:
        """Whether this process performs runs."""


class RunQueue:
    """RunReader runs and performs them; `records` tells of those of all instances."""

    def __init__(self, database: Database, availability: Availability, runs: Runs, limits: QueueLimits) -> None:
        self._journal = Journal(RunStore(database), availability)
        self.reader = RunReader(database, availability, self._journal, limits.days)
        self._store = RunStore(database)
        self._cancel_requests = CancelRequests(database)
        self._availability = availability
        self._runs = runs
        self._limits = limits
        self._entries: dict[str, QueuedRun] = {}
        self._queue: deque[QueuedRun] = deque()
        self._performing = 0
        self._submitting: list[int] = []  # sizes of requests
        self._draining = False
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._upkeep: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to write, to look for cancellations and to clean up."""
        self._journal.open()
        self._upkeep = {asyncio.create_task(self._keep_asking()), asyncio.create_task(self._keep_clean())}

    def drop_queue(self) -> None:
        """Begin no more runs; those that wait are cancelled. Those that are performed may still be cancelled, too."""
        self._draining = True
        while self._queue:
            self._end_queued(self._queue.popleft(), "the service is shutting down, and the run had not begun")

    async def close(self) -> None:
        """Write the last events, once no run is performed any more, and let everybody go who follows one."""
        self._closing.set()
        if tasks := self._tasks | self._upkeep:
            await asyncio.wait(tasks, timeout=_CLOSE_S)
        await self._journal.close()
        await self.reader.close()
        for task in (*self._upkeep, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._upkeep, *self._tasks, return_exceptions=True)
        self._upkeep = set()

    async def submit(self, request: RunRequest, submission: Recording) -> RecordedRun:
        """Record a run and perform it in the background, now or when its turn comes.

        Where the caller's key names a run already, that one is returned. Raises what starting a run raises, TooManyRuns
        when too many wait, InvalidRequest for a key that came with something else before, and Unavailable when the
        database is unavailable.
        """
        key = None if submission.key is None else _digest(f"{request.user_id or ''}\0{submission.key}".encode())
        fingerprint = _digest(submission.content)
        if key is not None:
            with self._availability.required():
                found = await self._store.find_run_by_key(key)
            if found is not None:
                return _same(found, fingerprint)
        size = len(submission.content)
        self._submitting.append(size)
        try:
            self._check_room()
            await self._runs.check(request, limited=False)
            run_id = str(uuid.uuid4())
            run = await self._add(run_id, request, submission, key, fingerprint)
        finally:
            self._submitting.remove(size)
        if run.run_id != run_id:  # another request with the key was faster
            return _same(run, fingerprint)
        entry = self._entry(request, submission, run)
        if self._draining:
            self._end_queued(entry, "the service is shutting down, and the run had not begun")
        else:
            self._queue.append(entry)
            self._begin_waiting()
        return run

    async def attach(self, request: RunRequest, submission: Recording) -> RecordedStream:
        """Record a run and perform it for a reader, who gets the run's end once it is stored.

        Raises what starting a run raises, and Unavailable when the database is unavailable.
        """
        await self._runs.check(request, limited=True)
        recorded = await self._add(str(uuid.uuid4()), request, submission)
        entry = self._entry(request, submission, recorded)
        run = await self._begin(entry, limited=True)
        attached = RecordedStream(run)
        self._keep(self._record(entry, run, attached.events))
        return attached

    def cancel(self, run_id: str) -> None:
        """Cancel a run that this process has recorded or performs; do nothing about any other."""
        entry = self._entries.get(run_id)
        if entry is not None and entry in self._queue:
            self._queue.remove(entry)
            self._end_queued(entry, ASKED)
        elif entry is not None:
            entry.cancel(ASKED)

    def _check_room(self) -> None:
        sizes = [*self._submitting, *(entry.size for entry in self._queue)]
        if len(sizes) > 1 and sum(sizes) > self._limits.max_waiting_bytes:
            megabytes = self._limits.max_waiting_bytes // 1024**2
            raise TooManyRuns(f"the background runs that wait have {megabytes} MB, which is the limit; try again")
        if self._performing + len(sizes) > self._limits.max_runs + self._limits.max_waiting:
            raise TooManyRuns(
                f"{self._limits.max_runs} background runs at once and {self._limits.max_waiting} that wait are the "
                "limit; try again"
            )

    async def _add(
        self, run_id: str, request: RunRequest, submission: Recording, key: str | None = None, fingerprint: str = ""
    ) -> RecordedRun:
        reply, facts = submission.reply, submission.facts
        new = NewRun(run_id, request.session_id, request.user_id, facts, key, fingerprint, reply)
        with self._availability.required():
            return await self._store.add_run(new, self._journal.owner, self._journal.lease_until)

    def _entry(self, request: RunRequest, submission: Recording, run: RecordedRun) -> QueuedRun:
        if submission.reply is not None:  # the run goes on with a session that is stored now
            request = replace(request, session_id=run.session_id, assigned=False, unnamed=True)
        entry = QueuedRun(request, run.run_id, self._journal.record, len(submission.content))
        self._entries[run.run_id] = entry
        return entry

    def _begin_waiting(self) -> None:
        while self._queue and self._performing < self._limits.max_runs:
            self._performing += 1
            self._keep(self._perform(self._queue.popleft()))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, entry: QueuedRun) -> None:
        try:
            await self._record(entry, await self._begin(entry, limited=False))
        except FlowpodError:
            pass  # it is recorded as the run's end
        except Exception:
            logger.exception("run %s: a bug in Flowpod", entry.recording.run_id)
        finally:
            self._performing -= 1
            self._begin_waiting()

    async def _begin(self, entry: QueuedRun, *, limited: bool) -> Run:
        """Start a run that is recorded; one that cannot be started has ended."""
        try:
            run = await self._runs.start(entry.request, run_id=entry.recording.run_id, limited=limited)
        except FlowpodError as error:
            self._drop(entry, error)
            raise
        except BaseException:  # a cancelled request too
            self._drop(entry, RunError("internal error: the run could not be started", code="internal_error"))
            raise
        entry.run = run
        if entry.cancelled:
            run.cancel(entry.cancelled)
        return run

    def _drop(self, entry: QueuedRun, error: FlowpodError) -> None:
        entry.end(error.info, "Canceled" if self._draining else "Failed")
        del self._entries[entry.recording.run_id]

    def _end_queued(self, entry: QueuedRun, reason: str) -> None:
        entry.end(RunError(f"the run was cancelled: {reason}", code="canceled").info, "Canceled")
        del self._entries[entry.recording.run_id]

    async def _record(self, entry: QueuedRun, run: Run, reader: EventChannel | None = None) -> None:
        """Write what a run tells, and pass it on to its reader, if there is one; the end only when it is stored."""
        recording = entry.recording
        async for batch in run.events.batches():
            recording.add(batch)
            if reader is not None:
                await self._pass_on(batch, recording, reader)
            await recording.room()
        del self._entries[recording.run_id]

    async def _pass_on(self, batch: Sequence[Event], recording: EventBuffer, reader: EventChannel) -> None:
        for event in batch:
            if isinstance(event, RunTerminated):
                with suppress(TimeoutError):
                    await asyncio.wait_for(recording.ended.wait(), self._limits.write_timeout_s)
                if recording.failure is not None:
                    event = replace(event, status="Failed", error=recording.failure)
            reader.put(event)
            await reader.room()

    async def _keep_asking(self) -> None:
        """Cancel what other instances were asked to cancel."""
        while not await self._closed_after(_ASK_S):
            if self._availability.failure:
                continue
            try:
                if self._entries:
                    for run_id in await self._store.list_cancel_requested(self._journal.owner):
                        self.cancel(run_id)
                if self._runs.busy:
                    await self._accept_cancel_requests()
            except FAILURES as error:
                self._availability.mark_unavailable(error)
            except Exception:
                logger.exception("a bug in Flowpod, met while cancellations were looked for")

    async def _accept_cancel_requests(self) -> None:
        accepted = []
        for request in await self._cancel_requests.pending_cancel_requests():
            run = self._runs.running(request.run_id)
            if run is not None and (request.user_id is None or run.user_id == request.user_id):
                run.cancel(ASKED)
                accepted.append(request.id)
        if accepted:
            await self._cancel_requests.accept_cancel_requests(accepted)

    async def _keep_clean(self) -> None:
        pause = _CLEAN_AGAIN_S
        while not await self._closed_after(pause):
            pause = _CLEAN_AGAIN_S
            if self._availability.failure:
                continue
            try:
                pause = await self.reader.clean()
            except FAILURES as error:
                logger.warning("cleaning up old runs failed, trying again: %s", reason_of(error))
            except Exception:
                logger.exception("a bug in Flowpod, met while old runs were cleaned up")

    async def _closed_after(self, pause_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause_s)
        return self._closing.is_set()


def _same(run: RecordedRun, fingerprint: str) -> RecordedRun:
    if run.fingerprint != fingerprint:
        message = "this Idempotency-Key came with another request before; send a new key with a new request"
        raise InvalidRequest(message, param="Idempotency-Key", code="idempotency_key_reused")
    return run


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
