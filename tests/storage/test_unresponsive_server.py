"""A server that accepts connections and then stops responding, the slowest way to be unavailable."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy.engine import make_url

from flowpod.errors import Unavailable
from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from flowpod.storage.sessions.service import HistoryService
from tests.support.history import turn, turns_of

pytestmark = pytest.mark.needs("mariadbd")


@dataclass
class Proxy:
    """A proxy to the server. While it is `silent`, it forwards nothing, and never does for a connection made then."""

    port: int = 0
    silent: bool = False
    connections: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        """Stop forwarding, for ever on the open connections."""
        self.silent = True
        for connection in self.connections:
            connection.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Start a proxy to the server at `url`; yield it and the URL that leads through it."""
    proxy, target = Proxy(), make_url(url).port or 3306

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections.append(writer)
        if proxy.silent:
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target)
        proxy.connections.append(server_writer)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(forward(reader, server_writer), forward(server_reader, writer))

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy, make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
        for connection in proxy.connections:
            connection.transport.abort()


async def until_available(service: HistoryService) -> None:
    async with asyncio.timeout(20):
        await service.availability.available.wait()


@pytest.mark.fault("the database server stops responding")
async def test_connections_that_stop_responding_are_replaced(mysql_url: str) -> None:
    async with proxy_to(mysql_url) as (proxy, url):
        database = Database(dialect_of(url), "svc", timeout_s=0.5)
        service = HistoryService(database, write_timeout_s=0.2, single_turn_days=1)
        await service.open()
        # Opens every connection of the pool before the proxy goes silent.
        await asyncio.gather(*(service.archive.list_sessions(None, None, 9) for _ in range(20)))
        proxy.cut()
        failures = await asyncio.gather(
            *(service.archive.list_sessions(None, None, 9) for _ in range(20)), return_exceptions=True
        )
        assert {type(failure) for failure in failures} == {Unavailable}
        assert await service.store_turn(turn()) is False
        proxy.silent = False
        await until_available(service)
        assert (await turns_of(service, 1)).last_turn == 1
        await service.close()


@pytest.mark.fault("the database server stops responding")
async def test_opening_does_not_wait_for_a_server_that_does_not_respond(mysql_url: str) -> None:
    async with proxy_to(mysql_url) as (proxy, url):
        proxy.silent = True
        database = Database(dialect_of(url), "svc", timeout_s=0.5)
        service = HistoryService(database, write_timeout_s=0.2, single_turn_days=1)
        async with asyncio.timeout(10):
            await service.open()
        assert not service.availability.migrated
        proxy.silent = False
        await until_available(service)
        assert service.availability.migrated
        async with asyncio.timeout(10):
            await service.close()
