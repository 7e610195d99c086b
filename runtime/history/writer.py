"""Stores turns, now or later, so that a run need not wait for a database that is slow or away."""

import asyncio
import logging
import time
from typing import Protocol

from runtime.history.reach import FAILURES, Reach, reason_of
from runtime.history.store import NotStored, Store, Turn

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_GIVE_UP_AFTER_S = 120.0
_MAX_WAITING = 10_000


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


class Writer:
    """Writes turns in tasks of its own. `timeout_s` is how long a run waits for its turn to be stored."""

    def __init__(self, store: Store, reach: Reach, observer: Observer, timeout_s: float) -> None:
        self._store = store
        self._reach = reach
        self._observer = observer
        self._timeout_s = timeout_s
        self._writes: set[asyncio.Task[bool]] = set()
        self._closing = asyncio.Event()

    async def write(self, turn: Turn) -> bool:
        """Store a turn. Returns whether it was stored in time; if not, the write goes on in the background."""
        if len(self._writes) >= _MAX_WAITING:
            self._give_up(turn, f"{_MAX_WAITING} others wait for the database")
            return False
        task = asyncio.create_task(self._write(turn))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        if (await asyncio.wait({task}, timeout=self._timeout_s))[0]:
            return task.result()
        self._observer.deferred()
        return False

    async def close(self) -> None:
        """Try what still waits once more, for as long as a run would, and give up the rest."""
        self._closing.set()
        if self._writes:
            _, late = await asyncio.wait(self._writes, timeout=self._timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _write(self, turn: Turn) -> bool:
        begun, pause, reason = time.monotonic(), _FIRST_RETRY_S, ""
        try:
            while time.monotonic() - begun < _GIVE_UP_AFTER_S:
                try:
                    await self._store.add_turn(turn)
                except FAILURES as error:
                    self._reach.failed(error)
                    reason = reason_of(error)
                else:
                    self._reach.found()
                    self._observer.written(time.monotonic() - begun)
                    return True
                logger.warning("run %s: its turn is not stored yet, trying again: %s", turn.run_id, reason)
                await self._wait(pause)
                pause = min(pause * 2, _LAST_RETRY_S)
        except NotStored as error:
            reason = error.message
        except asyncio.CancelledError:
            self._give_up(turn, f"the service ended before it could be stored: {reason}")
            raise
        except Exception:
            logger.exception("run %s: a bug in Flowpod", turn.run_id)
        self._give_up(turn, reason)
        return False

    async def _wait(self, pause_s: float) -> None:
        """Wait until another try may succeed: for a while, and for a database that is lost until it is found."""
        if self._closing.is_set():
            await asyncio.sleep(_FIRST_RETRY_S)
            return
        tasks = {asyncio.create_task(self._found_again(pause_s)), asyncio.create_task(self._closing.wait())}
        try:
            await asyncio.wait(tasks, timeout=_GIVE_UP_AFTER_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _found_again(self, pause_s: float) -> bool:
        await asyncio.sleep(pause_s)
        return await self._reach.answers.wait()

    def _give_up(self, turn: Turn, reason: str) -> None:
        logger.error("run %s: its turn is lost, the chat history: %s", turn.run_id, reason)
        self._observer.lost()
