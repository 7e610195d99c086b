"""Turns and databases for tests of the history."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from flowpod.errors import Unavailable
from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from flowpod.storage.sessions.reader import SessionReader, StoredSession
from flowpod.storage.sessions.service import HistoryService
from flowpod.storage.sessions.turns import Turn, TurnWriter
from tests.support.waiting import PATIENCE_S

NOW = datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)


def turn(session: str = "s", run: str = "r1", **changes: Any) -> Turn:
    values: dict[str, Any] = {
        "session_id": session,
        "user_id": None,
        "assigned": False,
        "run_id": run,
        "status": "Completed",
        "inputs": {"question": f"q {run}"},
        "outputs": {"answer": f"a {run}"},
        "error": None,
        "otel_trace_id": "0x" + "1" * 32,
        "started_at": NOW,
        "finished_at": NOW,
        "question": f"q {run}",
    }
    return Turn(**values | changes)


def history_turn(run: str) -> dict[str, dict[str, str]]:
    return {"inputs": {"question": f"q {run}"}, "outputs": {"answer": f"a {run}"}}


class NotStored(Exception):
    """A turn was refused; the message is the reason."""


class Sessions(SessionReader):
    """A session reader that can add turns one by one."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._writer = TurnWriter(database)

    async def add_turn(self, turn: Turn) -> None:
        for reason in (await self._writer.append_turns([turn])).values():
            raise NotStored(reason)


@asynccontextmanager
async def opened(url: str, service: str = "svc") -> AsyncIterator[tuple[Database, Sessions]]:
    """Open a database with its tables, and a reader of its sessions."""
    database = Database(dialect_of(url), service)
    await database.migrate()
    try:
        yield database, Sessions(database)
    finally:
        await database.close()


async def turns_of(service: HistoryService, count: int) -> StoredSession:
    """Return the session "s" once it has so many turns."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):
                if (state := await service.read_state("s", None, 99)).last_turn >= count:
                    return state
            await asyncio.sleep(0.05)
