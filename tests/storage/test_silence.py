"""A database that takes connections and then says nothing: the worst way to be away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flowpod.errors import Unavailable
from flowpod.storage.address import history_address
from flowpod.storage.database import Database
from flowpod.storage.sessions.service import HistoryService
from sqlalchemy.engine import make_url

from tests.support.history import turn

pytestmark = pytest.mark.needs("mariadbd")


@dataclass
class Line:
    """A line to the database; while `silent` nothing goes through, and connections that were made then never speak."""

    port: int = 0
    silent: bool = False
    links: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        """Go silent, for good on the connections that there are."""
        self.silent = True
        for link in self.links:
            link.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it


@asynccontextmanager
async def line_to(url: str) -> AsyncIterator[tuple[Line, str]]:
    """Open a line to the database at `url`; yield it and the address at its near end."""
    line, target = Line(), make_url(url).port or 3306

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line.links.append(writer)
        if line.silent:
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        line.links.append(far_writer)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        line.port = server.sockets[0].getsockname()[1]
        yield line, make_url(url).set(port=line.port).render_as_string(hide_password=False)
        for link in line.links:
            link.transport.abort()


async def until(service: HistoryService, *, lost: bool) -> None:
    async with asyncio.timeout(20):
        while bool(service.availability.failure) != lost:
            await asyncio.sleep(0.02)


async def test_connections_that_went_silent_are_let_go(mysql_url: str) -> None:
    async with line_to(mysql_url) as (line, url):
        database = Database(history_address(url), "svc", patience_s=0.5)
        service = HistoryService(database, write_timeout_s=0.2, single_turn_days=1)
        await service.open()
        # Every connection of the pool is made, and is there when the line goes silent.
        await asyncio.gather(*(service.archive.sessions(None, None, 9) for _ in range(20)))
        line.cut()
        failures = await asyncio.gather(
            *(service.archive.sessions(None, None, 9) for _ in range(20)), return_exceptions=True
        )
        assert {type(failure) for failure in failures} == {Unavailable}
        assert await service.write(turn()) is False
        line.silent = False
        await until(service, lost=False)
        async with asyncio.timeout(20):
            while (await service.read("s", None, 9)).last_turn == 0:
                await asyncio.sleep(0.05)
        await service.close()


async def test_a_start_does_not_wait_for_a_database_that_is_silent(mysql_url: str, tmp_path: Path) -> None:
    async with line_to(mysql_url) as (line, url):
        line.silent = True
        database = Database(history_address(url), "svc", patience_s=0.5)
        service = HistoryService(database, write_timeout_s=0.2, single_turn_days=1)
        async with asyncio.timeout(10):
            await service.open()
        assert not service.availability.migrated
        line.silent = False
        await until(service, lost=False)
        assert service.availability.migrated
        async with asyncio.timeout(10):
            await service.close()
