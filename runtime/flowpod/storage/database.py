"""One database, over SQLite or MySQL: its connections, and its tables brought up to date."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from flowpod.storage.address import Address, make_folder
from flowpod.storage.migrations import MIGRATIONS, Migration, migrate
from flowpod.storage.schema import schema_of

_BUSY_TIMEOUT_MS = 5000
_READERS = 4
_MYSQL_POOL = 10
_LOCK_WAIT_S = 60
_MIGRATION_S = 600.0
_DEADLOCK = (1213, 1205)  # MySQL's ER_LOCK_DEADLOCK and ER_LOCK_WAIT_TIMEOUT
_TRIES = 10
_LONGEST_PAUSE_S = 0.05
T = TypeVar("T")


class Database:
    """The tables of one service in one database. Everything it does may raise SQLAlchemy's errors."""

    def __init__(self, address: Address, service: str, *, patience_s: float = 20.0) -> None:
        """Raise InvalidRequest when the folder of a database file cannot be made or written.

        What takes longer than `patience_s` is given up: a connection whose other end is silent would be held for ever.
        """
        self.schema = schema_of(service)
        self.address = address
        self._patience_s = patience_s
        self.max_packet: int | None = None
        """The longest statement that MySQL takes, in bytes, once the tables are there."""
        if address.is_sqlite:
            make_folder(address.file)
            # One writer a process: SQLite has one at a time, and a queue here beats a lock there.
            self._writer = create_async_engine(address.url, pool_size=1, max_overflow=0, hide_parameters=True)
            # Its statements are no part of a transaction, so that there is nothing to undo when one is given back.
            self._reader = create_async_engine(
                address.url, pool_size=_READERS, max_overflow=0, pool_reset_on_return=None, hide_parameters=True
            )
            event.listen(self._writer.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._writer.sync_engine, "begin", _begin_immediate)
            event.listen(self._reader.sync_engine, "connect", _prepare_sqlite)
        else:
            # Each statement reads what is committed by then: a turn is numbered after a wait for its session's row.
            self._writer = self._reader = create_async_engine(
                address.url,
                connect_args=dict(address.arguments),
                isolation_level="READ COMMITTED",
                pool_size=_MYSQL_POOL,
                max_overflow=0,
                pool_pre_ping=True,
                pool_recycle=1800,
                hide_parameters=True,
            )
            if address.arguments["ssl"] is not None:
                event.listen(self._writer.sync_engine, "connect", _check_tls)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for reading."""
        async with asyncio.timeout(self._patience_s), self._reader.connect() as connection:
            yield connection

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `work` does with a connection, in one transaction that is committed at its end.

        Where transactions wait for each other and the database ends one of them, `work` is done again.
        """
        for attempt in range(_TRIES):
            try:
                async with asyncio.timeout(self._patience_s), self._writer.begin() as connection:
                    return await work(connection)
            except OperationalError as error:
                if not _is_deadlock(error) or attempt == _TRIES - 1:
                    raise
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_S))  # noqa: S311 - no secret
        raise AssertionError

    async def migrate(self, migrations: Sequence[Migration] = MIGRATIONS) -> list[str]:
        """Bring the tables up to date; return the names of the steps that were taken.

        Of instances that start together one takes the steps and the others wait. Raises InvalidRequest when a table of
        that name is not this program's.
        """
        await self.ping()  # which does not wait as long as tables may take to be changed
        if self.address.is_sqlite:
            async with asyncio.timeout(_MIGRATION_S), self._writer.begin() as connection:  # which is the lock
                return await connection.run_sync(migrate, self.schema, migrations)
        async with asyncio.timeout(_MIGRATION_S), self._writer.connect() as connection:
            self.max_packet = int(await connection.scalar(text("SELECT @@max_allowed_packet")) or 0)
            async with self._mysql_lock(connection):
                taken = await connection.run_sync(migrate, self.schema, migrations)
                await connection.commit()  # before the next one has the lock, and looks which steps were taken
                return taken

    @asynccontextmanager
    async def _mysql_lock(self, connection: AsyncConnection) -> AsyncIterator[None]:
        # The lock is the server's, over all its databases.
        name = f"flowpod {self.schema.service} {self.address.url.database}"[-64:]
        got = await connection.scalar(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": _LOCK_WAIT_S})
        if got != 1:
            raise OperationalError("GET_LOCK", name, TimeoutError("another instance is changing the tables"))
        try:
            yield
        finally:
            await connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})

    async def ping(self) -> None:
        """Ask the database for an answer."""
        async with self.reading() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close every connection."""
        for engine in _unique(self._writer, self._reader):
            await engine.dispose()


def _is_deadlock(error: OperationalError) -> bool:
    return bool(error.orig is not None and error.orig.args and error.orig.args[0] in _DEADLOCK)


def as_stored(time: datetime) -> datetime:
    """Return a time as it stands in the tables: UTC, without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None)


def _unique(*engines: AsyncEngine) -> list[AsyncEngine]:
    return list(dict.fromkeys(engines))


def _prepare_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
    # Transactions are begun by `_begin_immediate`, not by the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone() != ("wal",):  # the switch takes the whole file, and does not wait for others who have it
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()
    except BaseException:  # a cancelled task too
        connection.close()  # nobody else would, and its thread would keep the process from ending
        raise


def _check_tls(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
    # The driver goes on in the clear where the server offers no TLS, or somebody between has taken the offer away.
    cursor = connection.cursor()
    cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
    _, cipher = cursor.fetchone()
    cursor.close()
    if not cipher:
        raise OperationalError("connect", None, ConnectionError("FLOWPOD_HISTORY asks for TLS and the server has none"))


def _begin_immediate(connection: Connection) -> None:
    # Taking the write lock at once keeps two processes from both reading the last turn's number.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
