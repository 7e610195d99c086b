"""SQLite: a file on a disk of this machine."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from sqlalchemy import Connection, DateTime, Integer, String, Text, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from flowpod.storage.dialects.base import ID_LENGTH, POOL_TIMEOUT_S, ColumnTypes, Dialect
from flowpod.storage.dialects.sqlite_file import SQLiteFile, configure_connection, create_folder
from flowpod.storage.dialects.sqlite_threads import SQLiteThreads

_READERS = 4
_FILE_IDS = "file ids"


class SQLite(Dialect):
    """The database in `file`, whose path is made absolute."""

    url_form = "sqlite:///path/to/file.db"
    column_types: ClassVar[ColumnTypes] = ColumnTypes(
        identifier=String(ID_LENGTH),
        json=Text(),
        time=DateTime(),
        serial=Integer(),  # the only type under which SQLite numbers rows
    )
    ignore_prefix = "OR IGNORE"
    inserts_sessions_first = False
    may_stop_responding = False

    def __init__(self, file: Path) -> None:
        self._file = SQLiteFile(file.absolute())

    @classmethod
    def from_url(cls, url: URL, password: str | None) -> Self | None:  # noqa: ARG003 - a file has no password
        """Accept `sqlite:///path/to/file.db`."""
        if url.drivername != "sqlite" or not url.database or url.database == ":memory:" or url.query:
            return None
        return cls(Path(url.database))

    def create_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Create the file's folder and two pools.

        Raises InvalidRequest when the folder cannot be created or written, or is on a network file system.
        """
        create_folder(self._file.path)
        url = URL.create("sqlite+aiosqlite", database=str(self._file.path))
        # SQLite has one writer at a time, and waiting for a pool's only connection is cheaper than for a file's lock.
        writer = create_async_engine(
            url, pool_size=1, max_overflow=0, pool_timeout=POOL_TIMEOUT_S, hide_parameters=True
        )
        # Reads run outside a transaction, so a returned connection has nothing to roll back.
        reader = create_async_engine(
            url,
            pool_size=_READERS,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_reset_on_return=None,
            hide_parameters=True,
        )
        for engine in (reader, writer):
            event.listen(engine.sync_engine, "do_connect", self._prepare_connection)
            event.listen(engine.sync_engine, "connect", self._configure_connection)
            event.listen(engine.sync_engine, "checkout", self._replace_if_file_is_lost)
        event.listen(writer.sync_engine, "begin", _begin_immediate)
        return reader, writer

    def create_direct_connections(self) -> SQLiteThreads:
        """Return the threads that call SQLite directly."""
        return SQLiteThreads(self._file)

    def prepare(self) -> None:
        """Create the file's folder, which may have been deleted."""
        create_folder(self._file.path)

    def _prepare_connection(self, *connecting: Any) -> None:  # noqa: ARG002
        self._file.prepare_opening()

    def _configure_connection(self, connection: Any, record: ConnectionPoolEntry) -> None:
        configure_connection(connection)
        record.info[_FILE_IDS] = self._file.opened()

    def _replace_if_file_is_lost(self, connection: Any, record: ConnectionPoolEntry, proxy: Any) -> None:  # noqa: ARG002
        """Have the pool open another connection, if the file of this one has been deleted or replaced."""
        if self._file.is_lost(record.info[_FILE_IDS]):
            raise DisconnectionError

    async def read_limits(self, connection: AsyncConnection) -> None:
        """Do nothing: no limit of SQLite is below those of Flowpod."""

    @asynccontextmanager
    async def migration_lock(self, connection: AsyncConnection, service: str) -> AsyncIterator[None]:  # noqa: ARG002
        """Do nothing: the transaction locks the whole file."""
        yield

    def is_deadlock(self, error: OperationalError) -> bool:  # noqa: ARG002
        """Return False: a transaction that holds the only lock waits for no other."""
        return False

    def why_too_large(self, texts: Sequence[str]) -> str:  # noqa: ARG002
        """Return "": a statement of SQLite takes up to a gigabyte of parameters."""
        return ""

    async def size_on_disk(self, connection: AsyncConnection, tables: Sequence[str]) -> int:  # noqa: ARG002
        """Return the size of the file, its log and the log's index."""
        return sum(path.stat().st_size for path in (self._file.path, *self._file.logs) if path.exists())


def _begin_immediate(connection: Connection) -> None:
    # Takes the write lock at once, so that two processes never both read the number of a session's last turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
