"""The tables of one service in one database: connections, transactions and migration."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Delete, Insert, Row, Select, Update, delete, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.storage.dialects import Dialect
from flowpod.storage.migrations import MIGRATIONS, Migration, apply_migrations
from flowpod.storage.prepared import Operation, SQLAlchemyExecutor
from flowpod.storage.schema import schema_of
from flowpod.storage.time_limit import time_limit

_MIGRATION_S = 600.0
_WRITE_CHECK = "write check"
_WRITE_CHECK_BYTES = 512 * 1024
_ATTEMPTS = 10
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
T = TypeVar("T")


class Database:
    """The tables of one service in one database. Every method may raise SQLAlchemy's errors."""

    def __init__(self, dialect: Dialect, service: str, *, timeout_s: float = 20.0) -> None:
        """Raise InvalidRequest when the folder of a database file cannot be created or written.

        A transaction that takes longer than `timeout_s` is abandoned: a server that stopped responding would otherwise
        occupy the connection for ever.
        """
        self.dialect = dialect
        self.schema = schema_of(service, dialect.column_types)
        self._timeout_s = timeout_s
        self._reader, self._writer = dialect.create_engines()
        self._direct = dialect.create_direct_connections()
        # One of two connections that both write might wait for the file's lock until it times out.
        self._writing: AbstractAsyncContextManager[None] = nullcontext() if self._direct is None else asyncio.Lock()

    def time_limit(self, seconds: float | None) -> AbstractAsyncContextManager[None]:
        """Limit the time of the block's statements, unless the database cannot stop responding."""
        return time_limit(seconds if self.dialect.may_stop_responding else None)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for reading."""
        async with self.time_limit(self._timeout_s), self._reader.connect() as connection:
            yield connection

    async def fetch_rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        """Return the rows of a query."""
        async with self.reading() as connection:
            return (await connection.execute(query)).all()

    async def execute(self, statement: Insert | Update | Delete) -> int:
        """Execute a statement in a transaction of its own; return how many rows it changed."""

        async def write(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self.transact(write)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only reads, on the fastest connection."""
        if self._direct is not None:
            return await self._direct.read(operation)
        async with self.reading() as connection:
            return await operation(SQLAlchemyExecutor(connection))

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction, on the fastest connection; an error of the operation rolls it back."""
        if self._direct is not None:
            async with self._writing:
                return await self._direct.write(operation)
        return await self.transact(lambda connection: operation(SQLAlchemyExecutor(connection)))

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Call `work` with a connection, commit its transaction and return its result.

        When the database ends one of several transactions that wait for each other, `work` is called again after a
        random pause, and after longer ones if that happens again.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self.time_limit(self._timeout_s), self._writing, self._writer.begin() as connection:
                    return await work(connection)
            except OperationalError as error:
                if not self.dialect.is_deadlock(error) or attempt == _ATTEMPTS - 1:
                    raise
            longest_s = min(_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - no secret
        raise AssertionError

    async def migrate(self, migrations: Sequence[Migration] = MIGRATIONS) -> list[str]:
        """Migrate the tables; return the names of the migrations that were applied.

        Of instances that start together, one applies them and the others wait. Raises InvalidRequest when a table of
        the same name is not Flowpod's, or when the folder of a database file cannot be created.
        """
        self.dialect.prepare()
        await self.ping()  # fails sooner than a migration may
        async with self.time_limit(_MIGRATION_S), self._writing, self._writer.connect() as connection:
            await self.dialect.read_limits(connection)
            async with self.dialect.migration_lock(connection, self.schema.service):
                applied = await connection.run_sync(apply_migrations, self.schema, migrations)
                await connection.commit()
                return applied

    async def ping(self) -> None:
        """Raise what a statement raises when the database is unavailable."""
        async with self.reading() as connection:
            await connection.execute(text("SELECT 1"))

    async def check_reads(self) -> None:
        """Raise what a query raises when the database is unavailable or its tables are gone."""
        await self.fetch_rows(select(self.schema.sessions.c.session_id).limit(1))

    async def check_writes(self) -> None:
        """Raise what a write raises when the database is unavailable, full or read-only."""
        # Two transactions: one that ends as it began would write nothing. As large as a batch of events: on a disk that
        # is almost full, a smaller write would succeed.
        events = self.schema.events
        row = {"run_id": f"{_WRITE_CHECK} {uuid.uuid4()}", "last": 1, "events": "x" * _WRITE_CHECK_BYTES}
        await self.execute(insert(events).values(row))
        await self.execute(delete(events).where(events.c.run_id.startswith(_WRITE_CHECK)))

    async def close(self) -> None:
        """Close every connection."""
        if self._direct is not None:
            await self._direct.close()
        for engine in {self._reader, self._writer}:
            await engine.dispose()


def as_stored(time: datetime) -> datetime:
    """Return a time as the tables hold it: in UTC, without a time zone."""
    return time.astimezone(UTC).replace(tzinfo=None)
