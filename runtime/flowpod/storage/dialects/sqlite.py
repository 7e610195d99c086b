"""SQLite: a file on a disk of this machine."""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import aiosqlite
from sqlalchemy import Connection, DateTime, Integer, String, Text, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from flowpod.errors import InvalidRequest
from flowpod.storage.dialects.base import ID_LENGTH, POOL_TIMEOUT_S, ColumnTypes, Dialect
from flowpod.storage.prepared import Executor, PreparedStatement

logger = logging.getLogger(__name__)

FileId = tuple[int, int]
"""The device of a file and its number there."""

_BUSY_TIMEOUT_MS = 5000
_READERS = 4
_MOUNTS = Path("/proc/self/mounts")
# SQLite's locks and its shared memory do not work across machines (sqlite.org, "WAL", section 1, and FAQ 5).
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "afs", "gpfs", "beegfs")
_NETWORK_FUSE = (
    "sshfs s3fs mount-s3 goofys ossfs ossfs2 aliyun-alinas-efc glusterfs ceph cephfs gcsfuse blobfuse blobfuse2 "
    "juicefs rclone"
).split()


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
        self.file = file.absolute()
        self._lost_file: FileId | None = None

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
        create_folder(self.file)
        url = URL.create("sqlite+aiosqlite", database=str(self.file))
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
            event.listen(engine.sync_engine, "connect", _configure_connection)
            event.listen(engine.sync_engine, "connect", self._remember_file)
            event.listen(engine.sync_engine, "checkout", self._replace_if_file_is_gone)
        event.listen(writer.sync_engine, "begin", _begin_immediate)
        return reader, writer

    def prepare(self) -> None:
        """Create the file's folder, which may have been deleted."""
        create_folder(self.file)

    def _remember_file(self, connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG002
        record.info.update({file: file_id(file) for file in (self.file, *self._logs)})

    def _replace_if_file_is_gone(self, connection: Any, record: ConnectionPoolEntry, proxy: Any) -> None:  # noqa: ARG002
        """Have the pool open another connection, if the file of this one has been deleted or replaced.

        The deleted file would accept statements until its last connection is closed. A look at the file takes 2 µs.
        """
        opened, now = record.info[self.file], file_id(self.file)
        if opened == now:
            return
        if opened != self._lost_file:
            self._lost_file = opened
            what = "deleted" if now is None else "replaced"
            logger.error("the chat history %s was %s while it was in use; opening it again", self.file, what)
        for log in self._logs:  # SQLite would apply the old file's log to the new file
            if record.info[log] is not None and record.info[log] == file_id(log):
                log.unlink(missing_ok=True)
        raise DisconnectionError

    @property
    def _logs(self) -> Sequence[Path]:
        """The log of the file, and the log's index."""
        return [self.file.with_name(f"{self.file.name}-{end}") for end in ("wal", "shm")]

    async def read_limits(self, connection: AsyncConnection) -> None:
        """Do nothing: no limit of SQLite is below those of Flowpod."""

    @asynccontextmanager
    async def migration_lock(self, connection: AsyncConnection, service: str) -> AsyncIterator[None]:  # noqa: ARG002
        """Do nothing: the transaction locks the whole file."""
        yield

    def is_deadlock(self, error: OperationalError) -> bool:  # noqa: ARG002
        """Return False: a transaction that holds the only lock waits for no other."""
        return False

    async def executor(self, connection: AsyncConnection) -> Executor:
        """Return an executor that calls the driver directly."""
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, aiosqlite.Connection)
        return _DriverExecutor(driver, connection)

    def why_too_large(self, texts: Sequence[str]) -> str:  # noqa: ARG002
        """Return "": a statement of SQLite takes up to a gigabyte of parameters."""
        return ""

    async def size_on_disk(self, connection: AsyncConnection, tables: Sequence[str]) -> int:  # noqa: ARG002
        """Return the size of the file, its log and the log's index."""
        return sum(path.stat().st_size for path in (self.file, *self._logs) if path.exists())


class _DriverExecutor:
    """Executes statements by aiosqlite's own methods.

    SQLAlchemy takes four trips to the thread that aiosqlite keeps for a connection, and 0.3 ms of processor time a
    statement; the driver's methods take one trip and a tenth of the time.
    """

    def __init__(self, driver: aiosqlite.Connection, connection: AsyncConnection) -> None:
        self._driver = driver
        self._dialect = connection.dialect

    async def fetch_rows(self, statement: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        text = statement.text(self._dialect)
        try:
            return list(await self._driver.execute_fetchall(text, statement.parameters(values)))
        except sqlite3.Error as error:
            raise _as_sqlalchemy(text, error) from error

    async def execute_many(self, statement: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        text = statement.text(self._dialect)
        try:
            async with self._driver.executemany(text, map(statement.parameters, values)) as cursor:
                return cursor.rowcount
        except sqlite3.Error as error:
            raise _as_sqlalchemy(text, error) from error


def _as_sqlalchemy(text: str, error: sqlite3.Error) -> Exception:
    kind = IntegrityError if isinstance(error, sqlite3.IntegrityError) else OperationalError
    return kind(text, None, error, hide_parameters=True)


def _configure_connection(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
    # `_begin_immediate` begins the transactions, not the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone() != ("wal",):  # the switch locks the whole file, and fails while another process uses it
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA schema_version")  # creates the log, whose number is then remembered
        cursor.close()
    except BaseException:  # also a cancelled task
        connection.close()  # otherwise its thread would keep the process from exiting
        raise


def _begin_immediate(connection: Connection) -> None:
    # Takes the write lock at once, so that two processes never both read the number of a session's last turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def file_id(file: Path) -> FileId | None:
    """Return a file's device and its number there, or None if the file does not exist."""
    try:
        status = os.stat(file)  # noqa: PTH116 - half the time of Path.stat, and done for every transaction
    except OSError:
        return None
    return status.st_dev, status.st_ino


def create_folder(file: Path) -> None:
    """Create the folder of a database file.

    Raises InvalidRequest when it cannot be created or written, or is on a network file system.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the chat history's folder {file.parent} cannot be created: {error.strerror}") from error
    if file.is_dir():
        raise InvalidRequest(f"the chat history {file} is a folder; name a file in it")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InvalidRequest(f"the chat history {file} cannot be written; set FLOWPOD_DATA_DIR or FLOWPOD_HISTORY")
    mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace") if _MOUNTS.exists() else ""
    if kind := network_file_system(file.parent.resolve(), mounts):
        raise InvalidRequest(
            f"the chat history {file} is on a network file system ({kind}), where SQLite's locks do not work and "
            "turns would be lost; keep it on a disk of this machine, or use MySQL (FLOWPOD_HISTORY=mysql://...)"
        )


def network_file_system(folder: Path, mounts: str) -> str:
    """Return the kind of network file system that `folder` is on, or ""; `mounts` is Linux's table of mounts."""
    nearest, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, target, this_kind, *_ = [*line.split(), "", "", ""]
        point = Path(target.encode("latin-1", "replace").decode("unicode_escape"))  # \040 stands for a space
        if folder.is_relative_to(point) and len(point.parts) >= len(nearest.parts):
            nearest, kind = point, this_kind
    program = kind.lower().removeprefix("fuse.")
    return kind if kind in _NETWORK_FILE_SYSTEMS or (program != kind.lower() and program in _NETWORK_FUSE) else ""
