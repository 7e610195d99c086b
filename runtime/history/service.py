"""The rules of conversations: who owns a session, what a run gets to see of it, and that a turn is not lost."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from runtime.errors import NotFound, Unavailable
from runtime.history.store import Store, Turn

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_GIVE_UP_AFTER_S = 120.0
_CLEANUP_EVERY_S = 600.0
_CLEANUP_STEP = 500
_FAILURES = (SQLAlchemyError, OSError, TimeoutError, ValueError)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a run sees of its session: the last completed turns, oldest first, and how many turns there were."""

    pairs: Sequence[Mapping[str, Any]] = ()
    turns: int = 0
    variables: Mapping[str, Any] = field(default_factory=dict)


class HistoryService:
    """Reads and writes the conversations of one service. `reached` says whether the database ever answered."""

    def __init__(self, store: Store, *, write_timeout_s: float, single_turn_days: float) -> None:
        self._store = store
        self._write_timeout_s = write_timeout_s
        self._single_turn_age = timedelta(days=single_turn_days)
        self._writes: set[asyncio.Task[None]] = set()
        self._upkeep: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.reached = False

    async def open(self) -> None:
        """Create the tables and begin the upkeep; while the database is out of reach both are tried again."""
        try:
            await self._store.create_tables()
            self.reached = True
        except _FAILURES as error:
            logger.warning("the chat history is out of reach, trying again: %s", _reason(error))
        self._upkeep = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Give deferred writes a last short chance, then close the database."""
        self._closing.set()
        tasks = {*self._writes, *([self._upkeep] if self._upkeep else [])}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._write_timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._store.close()

    async def read(self, session_id: str, user_id: str | None, rounds: int) -> Conversation:
        """Return the conversation of a session; an unknown one is empty.

        Raises NotFound when the session belongs to another user, Unavailable when the database is out of reach.
        """
        try:
            session = await self._store.session(session_id)
            if session is None:
                return Conversation()
            if user_id is not None and session.user_id is not None and session.user_id != user_id:
                raise NotFound(f"there is no session {session_id!r}", param="Chat-Session-Id", code="session_not_found")
            pairs = await self._store.completed_turns(session_id, rounds) if rounds else []
            variables = await self._store.variables(session_id)
        except _FAILURES as error:
            logger.warning("the chat history cannot be read: %s", _reason(error))
            raise Unavailable(
                "the chat history is out of reach, so the session cannot be continued now; try again",
                code="history_unavailable",
            ) from error
        return Conversation(pairs, session.turns, variables)

    async def write(self, turn: Turn) -> bool:
        """Store a turn. Returns whether it was stored in time; if not, the write goes on in the background."""
        task = asyncio.create_task(self._write(turn))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        done, _ = await asyncio.wait({task}, timeout=self._write_timeout_s)
        return bool(done)

    async def _write(self, turn: Turn) -> None:
        deadline = asyncio.get_running_loop().time() + _GIVE_UP_AFTER_S
        pause = _FIRST_RETRY_S
        while True:
            try:
                return await self._store.add_turn(turn)
            except _FAILURES as error:
                if asyncio.get_running_loop().time() + pause > deadline:
                    logger.error("run %s: its turn is lost, the chat history: %s", turn.run_id, _reason(error))
                    return None
                logger.warning("run %s: its turn is not stored yet, trying again: %s", turn.run_id, _reason(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY_S)

    async def _keep_up(self) -> None:
        pause = _FIRST_RETRY_S
        while not self._closing.is_set():
            try:
                if not self.reached:
                    await self._store.create_tables()
                    self.reached = True
                    logger.info("the chat history is reached")
                deleted = await self._store.delete_single_turns(
                    datetime.now(UTC) - self._single_turn_age, _CLEANUP_STEP
                )
                pause = _FIRST_RETRY_S if deleted == _CLEANUP_STEP else _CLEANUP_EVERY_S
            except _FAILURES as error:
                logger.warning("the upkeep of the chat history failed, trying again: %s", _reason(error))
                pause = min(pause * 2, _LAST_RETRY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error)
