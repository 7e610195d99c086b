"""What the history service does while the database is slow, locked or unavailable."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowpod.errors import Unavailable
from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from flowpod.storage.sessions.reader import StoredSession
from flowpod.storage.sessions.service import HistoryService
from tests.support.history import history_turn, turn, turns_of
from tests.support.mariadb import MariaDB
from tests.support.waiting import until


@asynccontextmanager
async def opened(url: str, write_timeout_s: float = 5) -> AsyncIterator[HistoryService]:
    database = Database(dialect_of(url), "svc")
    service = HistoryService(database, write_timeout_s=write_timeout_s, single_turn_days=1)
    await service.open()
    try:
        yield service
    finally:
        await service.close()


async def until_migrated(service: HistoryService) -> None:
    await until(lambda: service.availability.migrated)


async def test_instances_that_start_together_share_a_new_database(history_url: str) -> None:
    # Switching a new SQLite file to its log fails while another process uses it, so an instance may have to retry.
    databases = [Database(dialect_of(history_url), "svc") for _ in range(6)]
    services = [HistoryService(database, write_timeout_s=5, single_turn_days=1) for database in databases]
    await asyncio.gather(*(service.open() for service in services))
    for service in services:
        assert service.availability.migrated
        assert await service.store_turn(turn(run=f"r{id(service)}"))
    assert (await services[0].read_state("s", None, 9)).last_turn == 6
    for service in services:
        await service.close()


async def test_opening_waits_for_a_slow_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'chat_history.db'}"
    database = Database(dialect_of(url), "svc")
    await database.ping()  # creates the file and its log
    holder = sqlite3.connect(tmp_path / "chat_history.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    service = HistoryService(database, write_timeout_s=5, single_turn_days=1)
    opening = asyncio.create_task(service.open())
    await asyncio.sleep(3)
    assert not opening.done()
    holder.execute("ROLLBACK")
    holder.close()
    await opening
    assert service.availability.migrated
    await service.close()


async def test_the_history_is_unavailable_until_it_has_been_opened(history_url: str) -> None:
    database = Database(dialect_of(history_url), "svc")
    await database.migrate()
    service = HistoryService(database, write_timeout_s=5, single_turn_days=1)
    with pytest.raises(Unavailable):
        await service.read_state("s", None, 9)
    assert not service.availability.migrated
    await service.open()
    assert service.availability.migrated
    await service.close()


@pytest.mark.fault("another process locks the SQLite file")
async def test_a_turn_is_deferred_while_the_database_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "chat_history.db"
    async with opened(f"sqlite:///{path}", write_timeout_s=0.2) as service:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        assert await service.store_turn(turn(run="r1")) is False
        with pytest.raises(Unavailable, match="not stored yet"):  # the next run would not see it
            await service.read_state("s", None, 9)
        assert await service.read_state("other", None, 9) == StoredSession()
        lock.execute("COMMIT")
        lock.close()
        assert await turns_of(service, 1)


@pytest.mark.fault("the process ends while turns wait")
async def test_closing_waits_for_deferred_turns(tmp_path: Path) -> None:
    path = tmp_path / "chat_history.db"
    async with opened(f"sqlite:///{path}", write_timeout_s=1) as service:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(1.3, lock.execute, "COMMIT")
        assert await service.store_turn(turn(run="r1")) is False
    lock.close()
    async with opened(f"sqlite:///{path}") as service:
        assert (await service.read_state("s", None, 9)).last_turn == 1


@pytest.mark.fault("the process ends while turns wait")
async def test_a_turn_that_is_not_stored_by_the_end_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat_history.db"
    async with opened(f"sqlite:///{path}", write_timeout_s=0.3) as service:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        assert await service.store_turn(turn(run="r1")) is False
    lock.close()
    assert "run r1: its turn could not be stored in the chat history: the service ended" in caplog.text


@pytest.mark.fault("a turn cannot be stored because of a bug")
async def test_a_turn_that_meets_a_bug_delays_no_other(history_url: str) -> None:
    async with opened(history_url) as service:
        turns = [turn(f"s{number}", f"r{number}") for number in range(5)]
        turns[2] = turn("s2", "r2", finished_at="not a time")
        stored = await asyncio.gather(*(service.store_turn(one) for one in turns))
        assert stored == [True, True, False, True, True]
        assert await service.store_turn(turn("s6", "r6"))


@pytest.mark.fault("the history file is not a database")
async def test_a_file_that_is_not_a_database_leaves_no_connection_open(tmp_path: Path) -> None:
    path = tmp_path / "chat_history.db"
    path.write_bytes(b"this is not a database" * 1000)
    async with opened(f"sqlite:///{path}") as service:
        assert not service.availability.migrated
        with pytest.raises(Unavailable):
            await service.read_state("s", None, 9)
        await until(lambda: not any("_connection_worker" in thread.name for thread in threading.enumerate()))


@pytest.mark.needs("mariadbd")
@pytest.mark.fault("the database server is killed and started again")
async def test_the_history_recovers_when_the_server_does(tmp_path: Path) -> None:
    server = MariaDB(tmp_path)
    server.start()
    url = server.new_database("d")
    server.stop()
    try:
        async with opened(url, write_timeout_s=0.3) as service:
            assert not service.availability.migrated
            with pytest.raises(Unavailable):
                await service.read_state("s", None, 9)
            assert await service.store_turn(turn(run="r1")) is False
            server.start()
            await until_migrated(service)
            assert await turns_of(service, 1)
            server.stop()
            with pytest.raises(Unavailable):
                await service.read_state("s", None, 9)
            assert await service.store_turn(turn(run="r2")) is False
            assert service.availability.migrated
            server.start()
            history = (history_turn("r1"), history_turn("r2"))
            assert await turns_of(service, 2) == StoredSession(None, 2, history)
    finally:
        server.stop()
        shutil.rmtree(tmp_path, ignore_errors=True)
