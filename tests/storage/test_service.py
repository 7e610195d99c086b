"""The rules of conversations, and what happens while the database is away."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from flowpod.errors import NotFound, Unavailable
from flowpod.storage.address import history_address
from flowpod.storage.database import Database
from flowpod.storage.sessions.service import HistoryService, SessionState

from tests.support.history import pair, turn
from tests.support.mariadb import MariaDB


@asynccontextmanager
async def opened(url: str, write_timeout_s: float = 5) -> AsyncIterator[HistoryService]:
    database = Database(history_address(url), "svc")
    service = HistoryService(database, write_timeout_s=write_timeout_s, single_turn_days=1)
    await service.open()
    try:
        yield service
    finally:
        await service.close()


async def until_reached(service: HistoryService) -> None:
    async with asyncio.timeout(20):
        while not service.availability.migrated:
            await asyncio.sleep(0.02)


async def test_a_session_belongs_to_the_first_user_that_names_it(history_url: str) -> None:
    async with opened(history_url) as service:
        assert await service.read("s", "ann", 9) == SessionState()
        assert await service.write(turn(run="r1", user_id="ann"))
        mine = SessionState((pair("r1"),), 1)
        assert await service.read("s", "ann", 9) == mine
        assert await service.read("s", None, 9) == mine
        with pytest.raises(NotFound) as caught:
            await service.read("s", "bob", 9)
    assert caught.value.param == "Chat-Session-Id"


async def test_many_instances_reach_a_new_database_together(history_url: str) -> None:
    # The switch of a new SQLite file to its log does not wait for others, so an instance may have to try again.
    databases = [Database(history_address(history_url), "svc") for _ in range(6)]
    services = [HistoryService(database, write_timeout_s=5, single_turn_days=1) for database in databases]
    await asyncio.gather(*(service.open() for service in services))
    for service in services:
        assert service.availability.migrated
        assert await service.write(turn(run=f"r{id(service)}"))
    assert (await services[0].read("s", None, 9)).last_turn == 6
    for service in services:
        await service.close()


async def test_a_start_waits_for_a_database_that_is_slow(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'chat_history.db'}"
    database = Database(history_address(url), "svc")
    await database.ping()  # which makes the file, and its log
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


async def test_a_read_does_not_stand_for_tables_that_are_up_to_date(history_url: str) -> None:
    database = Database(history_address(history_url), "svc")
    await database.migrate()
    service = HistoryService(database, write_timeout_s=5, single_turn_days=1)
    with pytest.raises(Unavailable):
        await service.read("s", None, 9)
    assert not service.availability.migrated
    await service.open()
    assert service.availability.migrated
    await service.close()


async def test_without_rounds_turns_are_only_counted(history_url: str) -> None:
    async with opened(history_url) as service:
        await service.write(turn(run="r1"))
        assert await service.read("s", None, 0) == SessionState((), 1)


async def test_a_locked_database_defers_the_write_and_then_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "chat_history.db"
    async with opened(f"sqlite:///{path}", write_timeout_s=0.2) as service:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        assert await service.write(turn(run="r1")) is False
        assert await service.read("s", None, 9) == SessionState()
        lock.execute("COMMIT")
        lock.close()
        async with asyncio.timeout(20):
            while (await service.read("s", None, 9)).last_turn == 0:
                await asyncio.sleep(0.05)


async def test_closing_waits_for_deferred_writes(tmp_path: Path) -> None:
    path = tmp_path / "chat_history.db"
    async with opened(f"sqlite:///{path}", write_timeout_s=1) as service:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(1.3, lock.execute, "COMMIT")
        assert await service.write(turn(run="r1")) is False
    lock.close()
    async with opened(f"sqlite:///{path}") as service:
        assert (await service.read("s", None, 9)).last_turn == 1


async def test_a_deferred_turn_is_tried_again_at_the_end_and_told_of_when_it_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat_history.db"
    async with opened(f"sqlite:///{path}", write_timeout_s=0.3) as service:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        assert await service.write(turn(run="r1")) is False
    lock.close()
    assert "run r1: its turn is lost, the chat history: the service ended before it could be stored" in caplog.text


async def test_a_turn_that_meets_a_bug_holds_up_no_other(history_url: str) -> None:
    async with opened(history_url) as service:
        turns = [turn(f"s{number}", f"r{number}") for number in range(5)]
        turns[2] = turn("s2", "r2", finished_at="no time")
        stored = await asyncio.gather(*(service.write(one) for one in turns))
        assert stored == [True, True, False, True, True]
        assert await service.write(turn("s6", "r6"))


async def test_a_file_that_is_no_database_leaves_no_connection_behind(tmp_path: Path) -> None:
    path = tmp_path / "chat_history.db"
    path.write_bytes(b"this is no database" * 1000)
    async with opened(f"sqlite:///{path}") as service:
        assert not service.availability.migrated
        with pytest.raises(Unavailable):
            await service.read("s", None, 9)
        async with asyncio.timeout(10):
            while any("_connection_worker" in thread.name for thread in threading.enumerate()):
                await asyncio.sleep(0.01)


@pytest.mark.needs("mariadbd")
async def test_the_service_comes_back_when_the_database_does(tmp_path: Path) -> None:
    server = MariaDB(tmp_path)
    server.start()
    url = server.new_database("d")
    server.stop()
    try:
        async with opened(url, write_timeout_s=0.3) as service:
            assert not service.availability.migrated
            with pytest.raises(Unavailable):
                await service.read("s", None, 9)
            assert await service.write(turn(run="r1")) is False
            server.start()
            await until_reached(service)
            async with asyncio.timeout(20):
                while (await service.read("s", None, 9)).last_turn == 0:
                    await asyncio.sleep(0.05)
            server.stop()
            with pytest.raises(Unavailable):
                await service.read("s", None, 9)
            assert await service.write(turn(run="r2")) is False
            assert service.availability.migrated
            server.start()
            async with asyncio.timeout(20):
                while not await service.write(turn(run="r2")):
                    await asyncio.sleep(0.1)
            assert await service.read("s", None, 9) == SessionState((pair("r1"), pair("r2")), 2)
    finally:
        server.stop()
        shutil.rmtree(tmp_path, ignore_errors=True)
