"""Stores turns, now or later, so that a run need not wait for a database that is slow or away."""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from flowpod.storage.availability import FAILURES, Availability, reason_of
from flowpod.storage.sessions.turns import Turn, TurnWriter

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_GIVE_UP_AFTER_S = 120.0
_LONGEST_WAIT_S = 30.0  # even while the database is away, so that turns that have waited too long are let go
_MAX_WAITING = 10_000
_MOST_AT_ONCE = 64


class Observer(Protocol):
    """Counts what becomes of turns."""

    def written(self, seconds: float) -> None:
        """Count a turn that was stored `seconds` after its run had come to its end."""

    def deferred(self) -> None:
        """Count a turn that was not stored in time; the write goes on."""

    def lost(self) -> None:
        """Count a turn that was given up."""


class Nobody:
    """An observer that counts nothing."""

    def written(self, seconds: float) -> None:
        """Pass over it."""

    def deferred(self) -> None:
        """Pass over it."""

    def lost(self) -> None:
        """Pass over it."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A turn that is to be stored; `stored` says at last whether it was."""

    turn: Turn
    stored: asyncio.Future[bool]
    since: float = field(default_factory=time.monotonic)


class TurnQueue:
    """Stores turns in a task of its own, all that wait in one transaction; a run waits `timeout_s` for its own."""

    def __init__(self, append: TurnWriter, availability: Availability, observer: Observer, timeout_s: float) -> None:
        self._append = append
        self._availability = availability
        self._observer = observer
        self._timeout_s = timeout_s
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._most = _MOST_AT_ONCE
        self._writing: asyncio.Task[None] | None = None

    async def write(self, turn: Turn) -> bool:
        """Store a turn. Returns whether it was stored in time; if not, the write goes on in the background."""
        waiting = _Waiting(turn, asyncio.get_running_loop().create_future())
        if len(self._waiting) >= _MAX_WAITING:
            self._give_up(waiting, f"{_MAX_WAITING} others wait for the database")
            return False
        if self._writing is None:
            self._writing = asyncio.create_task(self._keep_writing())
        self._waiting.append(waiting)
        self._arrived.set()
        if (await asyncio.wait({waiting.stored}, timeout=self._timeout_s))[0]:
            return waiting.stored.result()
        self._observer.deferred()
        return False

    async def close(self) -> None:
        """Try what still waits once more, for as long as a run would, and give up the rest."""
        self._closing.set()
        self._arrived.set()
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=self._timeout_s)
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        for waiting in self._waiting:
            self._give_up(waiting, "the service ended before it could be stored")

    async def _keep_writing(self) -> None:
        pause = _FIRST_RETRY_S
        while self._waiting or not self._closing.is_set():
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            pause = _FIRST_RETRY_S if await self._write_some() else await self._paused(pause)

    async def _write_some(self) -> bool:
        """Store some of the turns that wait; return whether the database took them."""
        batch = self._batch()
        try:
            refused = await self._append.add([waiting.turn for waiting in batch])
        except FAILURES as error:
            self._availability.mark_unavailable(error)
            self._put_back(batch, reason_of(error))
            return False
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(batch))
            raise
        except Exception:  # it must not end the writing of all others
            logger.exception("a bug in Flowpod, met while turns were stored")
            self._single_out(batch)
            return True
        self._most = min(self._most * 2, _MOST_AT_ONCE)
        self._availability.mark_available()
        for waiting in batch:
            if reason := refused.get(waiting.turn.run_id):
                self._give_up(waiting, reason)
            else:
                self._observer.written(time.monotonic() - waiting.since)
                waiting.stored.set_result(True)
        return True

    def _batch(self) -> list[_Waiting]:
        """Take the turns that have waited longest, of each session one."""
        batch: dict[str, _Waiting] = {}
        others: list[_Waiting] = []
        while self._waiting and len(batch) < self._most:
            waiting = self._waiting.popleft()
            if waiting.turn.session_id in batch:
                others.append(waiting)
            else:
                batch[waiting.turn.session_id] = waiting
        self._waiting.extendleft(reversed(others))
        return list(batch.values())

    def _put_back(self, batch: list[_Waiting], reason: str) -> None:
        """Let turns wait that were not stored, and give up those that have waited too long.

        Fewer are tried together from now on, and one that fails alone goes to the end: if it is the turn that the
        database does not take, and not the database that is away, it holds up no other.
        """
        now, left = time.monotonic(), []
        for waiting in batch:
            if now - waiting.since > _GIVE_UP_AFTER_S:
                self._give_up(waiting, reason)
            else:
                left.append(waiting)
                logger.warning("run %s: its turn is not stored yet, trying again: %s", waiting.turn.run_id, reason)
        self._most = max(1, len(batch) // 2)
        if len(batch) == 1:
            self._waiting.extend(left)
        else:
            self._waiting.extendleft(reversed(left))

    def _single_out(self, batch: list[_Waiting]) -> None:
        """Let turns wait that were not stored for no reason that is known, to be tried alone; give up one that was."""
        self._most = 1
        if len(batch) == 1:
            self._give_up(batch[0], "a bug in Flowpod")
        else:
            self._waiting.extendleft(reversed(batch))

    async def _paused(self, pause_s: float) -> float:
        """Wait until another try may succeed; return how long to wait after the next one that fails.

        That is until a database that is away is found again, and longer and longer for one that answers and still does
        not take the turn.
        """
        if self._closing.is_set():
            await asyncio.sleep(_FIRST_RETRY_S)
            return _FIRST_RETRY_S
        begun = time.monotonic()
        tasks = {asyncio.create_task(self._found_again(pause_s)), asyncio.create_task(self._closing.wait())}
        try:
            await asyncio.wait(tasks, timeout=_LONGEST_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        was_away = time.monotonic() - begun > 2 * pause_s
        return _FIRST_RETRY_S if was_away else min(pause_s * 2, _LAST_RETRY_S)

    async def _found_again(self, pause_s: float) -> None:
        begun = time.monotonic()
        await self._availability.available.wait()
        await asyncio.sleep(begun + pause_s - time.monotonic())

    def _give_up(self, waiting: _Waiting, reason: str) -> None:
        logger.error("run %s: its turn is lost, the chat history: %s", waiting.turn.run_id, reason)
        self._observer.lost()
        waiting.stored.set_result(False)
