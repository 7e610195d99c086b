"""Stores turns in the background, so that a run need not wait for a database that is slow or unavailable."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from flowpod.jsonable import dumps
from flowpod.storage.availability import FAILURES, Availability, reason_of
from flowpod.storage.sessions.turns import Turn, TurnWriter
from flowpod.storage.time_limit import Countdown, time_limit
from flowpod.telemetry.metrics import HistoryMetrics

logger = logging.getLogger(__name__)

_MIN_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_MAX_REFUSALS = 28  # about two minutes of retries
_MAX_WAITING = 10_000
_MAX_DEFERRED_BYTES = 256 * 1024 * 1024
_MAX_BATCH = 64
_OUTAGE_WAIT_S = 0.2


@dataclass(slots=True)
class _WaitingTurn:
    """A turn to be stored; the result of `stored` is whether it was.

    `in_time` is the same for its run, and False once the turn is deferred. `refusals`: how often an available database
    has refused it. `size`: its bytes of JSON, once it is deferred.
    """

    turn: Turn
    stored: asyncio.Future[bool]
    in_time: asyncio.Future[bool]
    since: float = field(default_factory=time.monotonic)
    refusals: int = 0
    size: int = 0

    def end(self, *, stored: bool) -> None:
        """Tell everyone who waits whether the turn was stored."""
        self.stored.set_result(stored)
        if not self.in_time.done():
            self.in_time.set_result(stored)


class TurnQueue:
    """Stores turns in a task of its own, in batches of one transaction; each run waits up to `timeout_s` for its own.

    The turns of a session are stored in the order in which their runs ended: while one is not stored, the later ones
    wait behind it. A batch that fails is retried in smaller ones, down to single turns, so that a turn which the
    database refuses delays no other session. While the database is unavailable, turns are kept.
    """

    def __init__(
        self, writer: TurnWriter, availability: Availability, metrics: HistoryMetrics, timeout_s: float
    ) -> None:
        self._writer = writer
        self._availability = availability
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._sessions: dict[str, deque[_WaitingTurn]] = {}
        self._count = 0
        self._deferred_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._batch_size = _MAX_BATCH
        self._task: asyncio.Task[None] | None = None

    async def store_turn(self, turn: Turn) -> bool:
        """Store a turn; return whether it was stored in time. If not, the write continues in the background.

        While the database is unavailable, the turn is deferred after a moment.
        """
        loop = asyncio.get_running_loop()
        waiting = _WaitingTurn(turn, loop.create_future(), loop.create_future())
        if self._count >= _MAX_WAITING or self._deferred_bytes >= _MAX_DEFERRED_BYTES:
            self._give_up(waiting, f"{self._count} others wait for the database, which is the limit")
            return False
        if self._task is None:
            self._task = asyncio.create_task(self._keep_storing())
        self._sessions.setdefault(turn.session_id, deque()).append(waiting)
        self._count += 1
        self._arrived.set()
        timeout_s = min(self._timeout_s, _OUTAGE_WAIT_S) if self._availability.failure else self._timeout_s
        countdown = Countdown(timeout_s, lambda: self._defer(waiting))
        try:
            return await waiting.in_time
        finally:
            countdown.stop()

    def _defer(self, waiting: _WaitingTurn) -> None:
        if waiting.in_time.done():
            return
        waiting.in_time.set_result(False)
        waiting.size = len(dumps(waiting.turn.inputs)) + len(dumps(waiting.turn.outputs))
        self._deferred_bytes += waiting.size
        self._metrics.deferred()

    async def are_stored(self, session_id: str) -> bool:
        """Return whether the session's turns so far are stored, after waiting for them as long as a run would."""
        if (turns := self._sessions.get(session_id)) is None:
            return True
        with suppress(TimeoutError):
            async with time_limit(self._timeout_s):
                await asyncio.wait({turns[-1].stored})
                return True
        return False

    async def close(self) -> None:
        """Try the waiting turns once more, for as long as a run would wait, and give up the rest."""
        self._closing.set()
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._timeout_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for turns in self._sessions.values():
            for waiting in turns:
                self._give_up(waiting, "the service ended before it could be stored")

    async def _keep_storing(self) -> None:
        pause = _MIN_RETRY_S
        while self._sessions or not self._closing.is_set():
            if not self._sessions:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            pause = _MIN_RETRY_S if await self._store_batch() else await self._pause(pause)

    async def _store_batch(self) -> bool:
        """Store the turns that come next, one of each session; return whether to go on without a pause."""
        batch = [turns[0] for turns in islice(self._sessions.values(), self._batch_size)]
        try:
            refused = await self._writer.append_turns([waiting.turn for waiting in batch])
        except FAILURES as error:
            self._availability.mark_unavailable(error)
            self._retry(batch, reason_of(error))
            return False
        except Exception:  # the queue must go on for all other turns
            logger.exception("a bug in Flowpod, while storing turns")
            self._batch_size = 1
            if len(batch) == 1:
                self._remove(batch)
                self._give_up(batch[0], "a bug in Flowpod")
            return True
        self._batch_size = min(self._batch_size * 2, _MAX_BATCH)
        self._availability.mark_available()
        self._remove(batch)
        for waiting in batch:
            if reason := refused.get(waiting.turn.run_id):
                self._give_up(waiting, reason)
            else:
                self._metrics.written(time.monotonic() - waiting.since)
                waiting.end(stored=True)
        return True

    def _retry(self, batch: list[_WaitingTurn], reason: str) -> None:
        """Retry turns that the database did not store in a smaller batch; give up one that it refuses again and again.

        The session of a turn that fails alone goes to the end: perhaps it is the only turn that the database refuses.
        """
        for waiting in batch:
            logger.warning("run %s: its turn is not stored yet, retrying: %s", waiting.turn.run_id, reason)
        self._batch_size = max(1, len(batch) // 2)
        if len(batch) == 1:
            waiting = batch[0]
            waiting.refusals += 1
            if waiting.refusals > _MAX_REFUSALS:
                self._remove(batch)
                self._give_up(waiting, reason)
            else:
                self._sessions[waiting.turn.session_id] = self._sessions.pop(waiting.turn.session_id)

    def _remove(self, batch: Iterable[_WaitingTurn]) -> None:
        """Remove the first turns of their sessions, which then go to the end."""
        for waiting in batch:
            turns = self._sessions.pop(waiting.turn.session_id)
            turns.popleft()
            if turns:
                self._sessions[waiting.turn.session_id] = turns
            self._count -= 1
            self._deferred_bytes -= waiting.size

    async def _pause(self, pause_s: float) -> float:
        """Wait until a retry may succeed; return how long to pause after the next failure.

        That is until an unavailable database is available again. For one that is available and does not store the turn,
        the pauses grow.
        """
        if self._closing.is_set():
            await asyncio.sleep(_MIN_RETRY_S)
            return _MIN_RETRY_S
        started = time.monotonic()
        tasks = {asyncio.create_task(self._until_available(pause_s)), asyncio.create_task(self._closing.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        was_unavailable = time.monotonic() - started > 2 * pause_s
        return _MIN_RETRY_S if was_unavailable else min(pause_s * 2, _MAX_RETRY_S)

    async def _until_available(self, pause_s: float) -> None:
        started = time.monotonic()
        await self._availability.available.wait()
        await asyncio.sleep(started + pause_s - time.monotonic())

    def _give_up(self, waiting: _WaitingTurn, reason: str) -> None:
        logger.error("run %s: its turn could not be stored in the chat history: %s", waiting.turn.run_id, reason)
        self._metrics.lost()
        waiting.end(stored=False)
