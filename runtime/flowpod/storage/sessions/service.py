"""The rules of conversations: who owns a session, what a run gets to see of it, and that a turn is not lost."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flowpod.errors import FlowpodError, NotFound
from flowpod.storage.availability import FAILURES, Availability, reason_of
from flowpod.storage.database import Database
from flowpod.storage.sessions.archive import Archive
from flowpod.storage.sessions.reader import SessionReader, past_budget
from flowpod.storage.sessions.retention import Retention
from flowpod.storage.sessions.turn_queue import Nobody, Observer, TurnQueue
from flowpod.storage.sessions.turns import Turn, TurnWriter

logger = logging.getLogger(__name__)

_START_S = 10.0
_START_AGAIN_S = 2.0
_READ_TIMEOUT_S = 10.0
_FIRST_LOOK_S = 0.1
_LAST_LOOK_S = 2.0
_LOOK_EVERY_S = 5.0
_CLEAN_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a run sees of its session: the last completed turns, oldest first, and the number of the last turn."""

    pairs: Sequence[Mapping[str, Any]] = ()
    last_turn: int = 0
    variables: Mapping[str, Any] = field(default_factory=dict)


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
        self._look_soon = asyncio.Event()
        self.availability = Availability(on_loss=self._look_soon.set)
        self.archive = Archive(database, self.availability)
        self._database = database
        self._store = SessionReader(database)
        self._writer = TurnQueue(TurnWriter(database), self.availability, observer or Nobody(), write_timeout_s)
        self._retention = Retention(database, timedelta(days=single_turn_days), timedelta(days=days) if days else None)
        self._upkeep: tuple[asyncio.Task[None], ...] = ()

    async def open(self) -> None:
        """Bring the tables up to date and begin the upkeep; while the database is away both go on in the background.

        Waits for the first answer, on a slow disk or of a long migration, and a moment more where it is a failure: of
        processes that start together on a new SQLite file, one may have to try again.
        """
        self._upkeep = (asyncio.create_task(self._keep_looking()), asyncio.create_task(self._keep_clean()))
        with suppress(TimeoutError):
            await asyncio.wait_for(self.availability.checked.wait(), _START_S)
            await asyncio.wait_for(self.availability.available.wait(), _START_AGAIN_S)

    async def close(self) -> None:
        """Give deferred writes a last short chance, then close the database."""
        await self._writer.close()
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self._database.close()

    async def read(self, session_id: str, user_id: str | None, rounds: int, tokens: int | None = None) -> SessionState:
        """Return the conversation of a session, its last `rounds` turns of no more than about `tokens` tokens.

        An unknown session is empty, and from now on the user's. Raises NotFound when the session belongs to another
        user, Unavailable when the database is out of reach.
        """
        with self.availability.required():
            async with asyncio.timeout(_READ_TIMEOUT_S):
                past = await self._store.past(session_id, rounds, past_budget(tokens))
                owner = None if past is None else past.user_id
                if user_id is not None and owner is None:
                    owner = await self._store.claim(session_id, user_id)
        if user_id is not None and owner != user_id:
            raise _session_not_found(session_id)
        if past is None:
            return SessionState()
        return SessionState(past.pairs, past.last_turn, past.variables)

    async def claim(self, session_id: str, user_id: str) -> None:
        """Make a session the user's, without reading its turns.

        Raises NotFound when the session belongs to another user, Unavailable when the database is unavailable.
        """
        with self.availability.required():
            async with asyncio.timeout(_READ_TIMEOUT_S):
                owner = await self._store.owner(session_id) or await self._store.claim(session_id, user_id)
        if owner != user_id:
            raise _session_not_found(session_id)

    async def write(self, turn: Turn) -> bool:
        """SessionReader a turn. Returns whether it was stored in time; if not, the write goes on in the background."""
        return await self._writer.write(turn)

    async def _look(self) -> None:
        """See whether the database answers, and bring its tables up to date the first time."""
        try:
            if self.availability.migrated:
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    await self._database.ping()
                self.availability.mark_available()
            else:
                if taken := await self._database.migrate():
                    logger.info("the chat history's tables were changed: %s", ", ".join(taken))
                self.availability.mark_migrated()
        except (*FAILURES, FlowpodError) as error:  # FlowpodError: somebody else's tables
            self.availability.mark_unavailable(error)

    async def _keep_looking(self) -> None:
        pause = _FIRST_LOOK_S
        while True:
            try:
                await self._look()
            except Exception:
                logger.exception("a bug in Flowpod, met while the chat history was looked for")
            pause = min(pause * 2, _LAST_LOOK_S) if self.availability.failure else _FIRST_LOOK_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look_soon.wait(), pause if self.availability.failure else _LOOK_EVERY_S)
            self._look_soon.clear()

    async def _keep_clean(self) -> None:
        while True:
            await self.availability.available.wait()
            pause = _CLEAN_AGAIN_S
            try:
                pause = await self._retention.step()
            except FAILURES as error:
                logger.warning("cleaning up the chat history failed, trying again: %s", reason_of(error))
            except Exception:
                logger.exception("a bug in Flowpod, met while the chat history was cleaned up")
            await asyncio.sleep(pause)


def _session_not_found(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id!r}", param="Chat-Session-Id", code="session_not_found")
