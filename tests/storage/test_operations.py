"""Operations on SQLite, each of which is one call of a thread."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from flowpod.storage.database import Database
from flowpod.storage.prepared import Executor, PreparedStatement
from flowpod.storage.sessions.reader import new_session
from tests.support.history import opened
from tests.support.outages import LockedFile
from tests.support.waiting import until


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(f"sqlite:///{tmp_path / 'h.db'}") as (database, _):
        yield database


async def write(database: Database, *ids: str, error: Exception | None = None) -> None:
    """Insert sessions in a transaction, which then raises the error."""
    statement = PreparedStatement(insert(database.schema.sessions))

    async def operation(executor: Executor) -> None:
        await executor.execute_many(statement, [new_session(name, None, assigned=True) for name in ids])
        if error is not None:
            raise error

    await database.write(operation)


async def stored(database: Database) -> list[str]:
    return [row[0] for row in await database.fetch_rows(select(database.schema.sessions.c.session_id))]


async def test_an_operation_that_fails_is_rolled_back(database: Database) -> None:
    with pytest.raises(KeyError):
        await write(database, "a", error=KeyError("k"))
    await write(database, "b")
    assert await stored(database) == ["b"]


async def test_operations_of_cancelled_callers_are_skipped_or_end(database: Database, tmp_path: Path) -> None:
    locked = LockedFile(tmp_path / "h.db")
    locked.begin()
    begun, waiting = asyncio.create_task(write(database, "begun")), asyncio.create_task(write(database, "waiting"))
    await asyncio.sleep(0.1)
    begun.cancel()
    waiting.cancel()
    await asyncio.gather(begun, waiting, return_exceptions=True)
    locked.end()
    await write(database, "later")
    locked.begin()  # no transaction is open
    locked.end()
    assert sorted(await stored(database)) == ["begun", "later"]


async def test_closing_waits_for_the_write_in_progress_and_ends_the_threads(tmp_path: Path) -> None:
    locked = LockedFile(tmp_path / "h.db")
    async with opened(locked.url) as (database, _):
        locked.begin()
        writing = asyncio.create_task(write(database, "s"))
        await asyncio.sleep(0.1)
        asyncio.get_running_loop().call_later(0.3, locked.end)
    assert writing.done()
    await writing
    await until(lambda: not any("sqlite" in thread.name for thread in threading.enumerate()))
    connection = sqlite3.connect(tmp_path / "h.db")
    assert connection.execute("SELECT session_id FROM langstudio_chat_session_svc").fetchall() == [("s",)]
    connection.close()


async def test_an_operation_may_await_its_executor_alone(database: Database) -> None:
    async def operation(executor: Executor) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="awaits something other than its executor"):
        await database.write(operation)
    await write(database, "s")
