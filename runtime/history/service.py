"""The rules of conversations: who owns a session, what a run gets to see of it, and that a turn is not lost."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from runtime.errors import FlowpodError, NotFound
from runtime.history.archive import Archive
from runtime.history.database import Database
from runtime.history.reach import FAILURES, Reach, reason_of
from runtime.history.retention import Retention
from runtime.history.store import Past, Store, Turn

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_READ_TIMEOUT_S = 10.0
_ATTEMPT_TIMEOUT_S = 20.0
_GIVE_UP_AFTER_S = 120.0
_LOOK_EVERY_S = 5.0
_MAX_WAITING = 10_000
_BYTES_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a run sees of its session: the last completed turns, oldest first, and the number of the last turn."""

    pairs: Sequence[Mapping[str, Any]] = ()
    last_turn: int = 0
    variables: Mapping[str, Any] = field(default_factory=dict)


class Observer(Protocol):
    """Counts what becomes of turns."""

    def written(self, seconds: float) -> None:
        """Count a turn that was stored `seconds` after its run had come to its end."""

    def deferred(self) -> None:
        """Count a turn that was not stored in time; the write goes on."""

    def lost(self) -> None:
        """Count a turn that was given up."""


class _Nobody:
    def written(self, seconds: float) -> None: ...
    def deferred(self) -> None: ...
    def lost(self) -> None: ...


class HistoryService:
    """Reads and writes the conversations of one service; `archive` has them for their owners."""

    def __init__(
        self,
        database: Database,
        *,
        write_timeout_s: float,
        single_turn_days: float,
        days: float | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.reach = Reach()
        self.archive = Archive(database, self.reach)
        self._database = database
        self._store = Store(database)
        self._retention = Retention(database, timedelta(days=single_turn_days), timedelta(days=days) if days else None)
        self._write_timeout_s = write_timeout_s
        self._observer = observer or _Nobody()
        self._writes: set[asyncio.Task[None]] = set()
        self._upkeep: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def open(self) -> None:
        """Bring the tables up to date and begin the upkeep; while the database is out of reach both wait for it."""
        await self._look()
        self._upkeep = {asyncio.create_task(self._keep_looking()), asyncio.create_task(self._keep_clean())}

    async def close(self) -> None:
        """Give deferred writes a last short chance, then close the database."""
        self._closing.set()
        tasks = {*self._writes, *self._upkeep}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._write_timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._database.close()

    async def read(self, session_id: str, user_id: str | None, rounds: int, tokens: int | None = None) -> Conversation:
        """Return the conversation of a session, its last `rounds` turns of no more than about `tokens` tokens.

        An unknown session is empty, and from now on the user's. Raises NotFound when the session belongs to another
        user, Unavailable when the database is out of reach.
        """
        with self.reach.needed():
            async with asyncio.timeout(_READ_TIMEOUT_S):
                past = await self._store.past(session_id, rounds)
                owner = None if past is None else past.user_id
                if user_id is not None and owner is None:
                    owner = await self._store.claim(session_id, user_id)
        if user_id is not None and owner != user_id:
            raise NotFound(f"there is no session {session_id!r}", param="Chat-Session-Id", code="session_not_found")
        if past is None:
            return Conversation()
        return Conversation(_bounded(past, tokens), past.last_turn, past.variables)

    async def write(self, turn: Turn) -> bool:
        """Store a turn. Returns whether it was stored in time; if not, the write goes on in the background."""
        if len(self._writes) >= _MAX_WAITING:
            self._give_up(turn, f"{_MAX_WAITING} others wait for the database")
            return False
        task = asyncio.create_task(self._write(turn))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        done, _ = await asyncio.wait({task}, timeout=self._write_timeout_s)
        if not done:
            self._observer.deferred()
        return bool(done)

    async def _write(self, turn: Turn) -> None:
        begun = time.monotonic()
        pause = _FIRST_RETRY_S
        while True:
            try:
                async with asyncio.timeout(_ATTEMPT_TIMEOUT_S):
                    await self._store.add_turn(turn)
            except FAILURES as error:
                self.reach.failed(error)
                if time.monotonic() - begun + pause > _GIVE_UP_AFTER_S:
                    self._give_up(turn, reason_of(error))
                    return
                logger.warning("run %s: its turn is not stored yet, trying again: %s", turn.run_id, reason_of(error))
            else:
                self.reach.found()
                self._observer.written(time.monotonic() - begun)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY_S)

    def _give_up(self, turn: Turn, reason: str) -> None:
        logger.error("run %s: its turn is lost, the chat history: %s", turn.run_id, reason)
        self._observer.lost()

    async def _look(self) -> None:
        """See whether the database answers, and bring its tables up to date the first time."""
        try:
            if self.reach.reached:
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    await self._database.ping()
            elif taken := await self._database.migrate():
                logger.info("the chat history's tables were changed: %s", ", ".join(taken))
        except (*FAILURES, FlowpodError) as error:  # FlowpodError: somebody else's tables
            self.reach.failed(error)
        else:
            self.reach.found()

    async def _keep_looking(self) -> None:
        pause = _FIRST_RETRY_S
        while not await self._closed_after(_LOOK_EVERY_S if not self.reach.lost else pause):
            await self._look()
            pause = min(pause * 2, _LAST_RETRY_S) if self.reach.lost else _FIRST_RETRY_S

    async def _keep_clean(self) -> None:
        pause = _FIRST_RETRY_S
        while not await self._closed_after(pause):
            pause = _LAST_RETRY_S
            if not self.reach.lost:
                try:
                    pause = await self._retention.step()
                except FAILURES as error:
                    logger.warning("cleaning up the chat history failed, trying again: %s", reason_of(error))

    async def _closed_after(self, pause_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause_s)
        return self._closing.is_set()


def _bounded(past: Past, tokens: int | None) -> Sequence[Mapping[str, Any]]:
    """Return the newest turns that fit. Models count tokens in ways of their own: four bytes of UTF-8 are one here."""
    if tokens is None:
        return past.pairs
    left, kept = tokens * _BYTES_A_TOKEN, 0
    for size in reversed(past.sizes):
        left -= size
        if left < 0:
            break
        kept += 1
    return past.pairs[len(past.pairs) - kept :]
