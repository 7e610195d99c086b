"""Stores turns in the background, so that a run need not wait for a database that is slow or unavailable."""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from flowpod.storage.availability import FAILURES, Availability, reason_of
from flowpod.storage.sessions.turns import Turn, TurnWriter
from flowpod.telemetry.metrics import HistoryMetrics

logger = logging.getLogger(__name__)

_MIN_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_GIVE_UP_AFTER_S = 120.0
_MAX_PAUSE_S = 30.0  # also while the database is unavailable, so that old turns are given up
_MAX_WAITING = 10_000
_MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class _WaitingTurn:
    """A turn to be stored; the result of `stored` is whether it was."""

    turn: Turn
    stored: asyncio.Future[bool]
    since: float = field(default_factory=time.monotonic)


class TurnQueue:
    """Stores turns in a task of its own, in batches of one transaction; each run waits up to `timeout_s` for its own.

    A batch that fails is retried in smaller ones, down to single turns, so that a turn which the database refuses
    delays no other.
    """

    def __init__(
        self, writer: TurnWriter, availability: Availability, metrics: HistoryMetrics, timeout_s: float
    ) -> None:
        self._writer = writer
        self._availability = availability
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._waiting: deque[_WaitingTurn] = deque()
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._batch_size = _MAX_BATCH
        self._task: asyncio.Task[None] | None = None

    async def store_turn(self, turn: Turn) -> bool:
        """Store a turn; return whether it was stored in time. If not, the write continues in the background."""
        waiting = _WaitingTurn(turn, asyncio.get_running_loop().create_future())
        if len(self._waiting) >= _MAX_WAITING:
            self._give_up(waiting, f"{_MAX_WAITING} others wait for the database")
            return False
        if self._task is None:
            self._task = asyncio.create_task(self._keep_storing())
        self._waiting.append(waiting)
        self._arrived.set()
        if (await asyncio.wait({waiting.stored}, timeout=self._timeout_s))[0]:
            return waiting.stored.result()
        self._metrics.deferred()
        return False

    async def close(self) -> None:
        """Try the waiting turns once more, for as long as a run would wait, and give up the rest."""
        self._closing.set()
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._timeout_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            self._give_up(waiting, "the service ended before it could be stored")

    async def _keep_storing(self) -> None:
        pause = _MIN_RETRY_S
        while self._waiting or not self._closing.is_set():
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            pause = _MIN_RETRY_S if await self._store_batch() else await self._pause(pause)

    async def _store_batch(self) -> bool:
        batch = self._next_batch()
        try:
            refused = await self._writer.append_turns([waiting.turn for waiting in batch])
        except FAILURES as error:
            self._availability.mark_unavailable(error)
            self._retry(batch, reason_of(error))
            return False
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(batch))
            raise
        except Exception:  # the queue must go on for all other turns
            logger.exception("a bug in Flowpod, while storing turns")
            self._retry_alone(batch)
            return True
        self._batch_size = min(self._batch_size * 2, _MAX_BATCH)
        self._availability.mark_available()
        for waiting in batch:
            if reason := refused.get(waiting.turn.run_id):
                self._give_up(waiting, reason)
            else:
                self._metrics.written(time.monotonic() - waiting.since)
                waiting.stored.set_result(True)
        return True

    def _next_batch(self) -> list[_WaitingTurn]:
        """Remove and return the turns that have waited longest, one of each session."""
        batch: dict[str, _WaitingTurn] = {}
        others: list[_WaitingTurn] = []
        while self._waiting and len(batch) < self._batch_size:
            waiting = self._waiting.popleft()
            if waiting.turn.session_id in batch:
                others.append(waiting)
            else:
                batch[waiting.turn.session_id] = waiting
        self._waiting.extendleft(reversed(others))
        return list(batch.values())

    def _retry(self, batch: list[_WaitingTurn], reason: str) -> None:
        """Put turns back that the database did not store, in smaller batches; give up those that have waited too long.

        A turn that fails alone goes to the end of the queue: perhaps it is the only one that the database refuses.
        """
        now, left = time.monotonic(), []
        for waiting in batch:
            if now - waiting.since > _GIVE_UP_AFTER_S:
                self._give_up(waiting, reason)
            else:
                left.append(waiting)
                logger.warning("run %s: its turn is not stored yet, retrying: %s", waiting.turn.run_id, reason)
        self._batch_size = max(1, len(batch) // 2)
        if len(batch) == 1:
            self._waiting.extend(left)
        else:
            self._waiting.extendleft(reversed(left))

    def _retry_alone(self, batch: list[_WaitingTurn]) -> None:
        """Put turns back that met a bug, to be stored one by one; give up a turn that was alone."""
        self._batch_size = 1
        if len(batch) == 1:
            self._give_up(batch[0], "a bug in Flowpod")
        else:
            self._waiting.extendleft(reversed(batch))

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
            await asyncio.wait(tasks, timeout=_MAX_PAUSE_S, return_when=asyncio.FIRST_COMPLETED)
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
        waiting.stored.set_result(False)
