"""The rules of sessions: who owns one, how much of its history a run gets, and that no turn is lost."""

import asyncio
import logging
from datetime import timedelta

from flowpod.errors import FlowpodError, NotFound, Unavailable
from flowpod.storage.availability import FAILURES, Availability, is_set_within, reason_of
from flowpod.storage.database import Database
from flowpod.storage.sessions.archive import Archive
from flowpod.storage.sessions.reader import SessionReader, StoredSession, history_budget
from flowpod.storage.sessions.retention import Retention
from flowpod.storage.sessions.turn_queue import TurnQueue
from flowpod.storage.sessions.turns import Turn, TurnWriter
from flowpod.telemetry.metrics import HistoryMetrics, Metrics

logger = logging.getLogger(__name__)

_FIRST_CHECK_TIMEOUT_S = 10.0
_RECOVERY_TIMEOUT_S = 2.0
_READ_TIMEOUT_S = 10.0
_MIN_RETRY_S = 0.1
_MAX_RETRY_S = 2.0
_CHECK_INTERVAL_S = 5.0
_RETENTION_RETRY_S = 5.0


class HistoryService:
    """Reads and writes the sessions of one service; `archive` manages them for their owners."""

    def __init__(
        self,
        database: Database,
        *,
        write_timeout_s: float,
        single_turn_days: float,
        days: float | None = None,
        metrics: HistoryMetrics | None = None,
    ) -> None:
        self._check_now = asyncio.Event()
        self.availability = Availability(on_failure=self._check_now.set)
        self.archive = Archive(database, self.availability)
        self._database = database
        self._reader = SessionReader(database)
        self._queue = TurnQueue(TurnWriter(database), self.availability, metrics or Metrics().history, write_timeout_s)
        self._retention = Retention(database, timedelta(days=single_turn_days), timedelta(days=days) if days else None)
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def open(self) -> None:
        """Start migrating the tables and deleting old sessions; both wait for the database in the background.

        Returns when the first check has finished, or after some seconds: a disk may be slow and a migration long. After
        a failed check it waits a moment longer, because of processes that start together on a new SQLite file one may
        have to retry.
        """
        self._tasks = (asyncio.create_task(self._keep_checking()), asyncio.create_task(self._keep_deleting_old()))
        if await is_set_within(self.availability.checked, _FIRST_CHECK_TIMEOUT_S):
            await is_set_within(self.availability.available, _RECOVERY_TIMEOUT_S)

    async def close(self) -> None:
        """Try deferred turns once more, then close the database."""
        await self._queue.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._database.close()

    async def read_state(
        self, session_id: str, user_id: str | None, rounds: int, tokens: int | None = None
    ) -> StoredSession:
        """Return what a run gets of its session: at most `rounds` turns and about `tokens` tokens of history.

        An unknown session is empty, and from now on the user's. Raises NotFound when the session belongs to another
        user, Unavailable when the database is unavailable.
        """
        with self.availability.required():
            await self._require_stored_turns(session_id)
            async with self._database.time_limit(_READ_TIMEOUT_S):
                stored = await self._reader.find_session(session_id, rounds, history_budget(tokens))
                owner = None if stored is None else stored.user_id
                if user_id is not None and owner is None:
                    owner = await self._reader.claim_session(session_id, user_id)
        if user_id is not None and owner != user_id:
            raise _session_not_found(session_id)
        return stored or StoredSession()

    async def claim_session(self, session_id: str, user_id: str) -> None:
        """Make the user the owner of a session, without reading its turns.

        Raises NotFound when the session belongs to another user, Unavailable when the database is unavailable.
        """
        with self.availability.required():
            async with self._database.time_limit(_READ_TIMEOUT_S):
                owner = await self._reader.find_owner(session_id)
                owner = owner or await self._reader.claim_session(session_id, user_id)
        if owner != user_id:
            raise _session_not_found(session_id)

    async def _require_stored_turns(self, session_id: str) -> None:
        if not await self._queue.are_stored(session_id):
            message = f"the last turn of session {session_id!r} is not stored yet; try again"
            raise Unavailable(message, code="history_unavailable")

    async def store_turn(self, turn: Turn) -> bool:
        """Store a turn; return whether it was stored in time. If not, the write continues in the background."""
        return await self._queue.store_turn(turn)

    async def _check_database(self) -> None:
        """Check that the database can be read, or, while it is unavailable, that it has its tables and can be written.

        A database may answer reads and refuse writes: its disk is full, or it is read-only. Its tables, or the file
        itself, may have been deleted.
        """
        try:
            async with self._database.time_limit(_READ_TIMEOUT_S if self.availability.migrated else None):
                if not self.availability.failure:
                    await self._database.check_reads()
                    return
                if applied := await self._database.migrate():
                    logger.info("the chat history's tables were created or migrated: %s", ", ".join(applied))
                await self._database.check_writes()
            self.availability.migrated = True
            self.availability.mark_available()
        except (*FAILURES, FlowpodError) as error:  # FlowpodError: a table that is not Flowpod's
            self.availability.mark_unavailable(error)

    async def _keep_checking(self) -> None:
        pause = _MIN_RETRY_S
        while True:
            try:
                await self._check_database()
            except Exception:
                logger.exception("a bug in Flowpod, while checking the chat history")
            pause = min(pause * 2, _MAX_RETRY_S) if self.availability.failure else _MIN_RETRY_S
            await is_set_within(self._check_now, pause if self.availability.failure else _CHECK_INTERVAL_S)
            self._check_now.clear()

    async def _keep_deleting_old(self) -> None:
        while True:
            await self.availability.available.wait()
            pause = _RETENTION_RETRY_S
            try:
                pause = await self._retention.delete_expired()
            except FAILURES as error:
                logger.warning("old sessions could not be deleted, retrying: %s", reason_of(error))
            except Exception:
                logger.exception("a bug in Flowpod, while deleting old sessions")
            await asyncio.sleep(pause)


def _session_not_found(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id!r}", param="Chat-Session-Id", code="session_not_found")
