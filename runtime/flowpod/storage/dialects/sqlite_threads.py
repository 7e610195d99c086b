"""Runs operations in threads that call SQLite directly: one hop from the event loop for a whole transaction.

aiosqlite, which SQLAlchemy uses, takes a hop for every statement, and SQLAlchemy adds 0.3 ms of processor time.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError, OperationalError

from flowpod.storage.dialects.sqlite_file import FileIds, SQLiteFile, configure_connection
from flowpod.storage.prepared import Operation, PreparedStatement

T = TypeVar("T")

_DIALECT = sqlite.dialect(paramstyle="named")  # compiles the statements, and opens no connection


class SQLiteThreads:
    """One thread that writes and one that reads, each with a connection of its own.

    They are separate because a writer may wait for seconds while another process has locked the file.
    """

    def __init__(self, file: SQLiteFile) -> None:
        self._writer = _ConnectionThread("flowpod-sqlite-writer", file)
        self._reader = _ConnectionThread("flowpod-sqlite-reader", file)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation outside a transaction: each of its statements sees what is committed by then."""
        return await self._reader.call(lambda connection: _run(operation, connection))

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction. If it has begun, it goes on to its end when the caller is cancelled."""
        return await self._writer.call(lambda connection: _transact(operation, connection))

    async def close(self) -> None:
        """Close the connections, after the operations that wait."""
        await self._writer.close()
        await self._reader.close()


def _transact(operation: Operation[T], connection: sqlite3.Connection) -> T:
    # Takes the write lock at once, so that two processes never both read the number of a session's last turn.
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = _run(operation, connection)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return result


def _run(operation: Operation[T], connection: sqlite3.Connection) -> T:
    return _result_of(operation(_DirectExecutor(connection)))


def _result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine} awaits something other than its executor")


class _DirectExecutor:
    """Executes prepared statements; its methods never suspend."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch_rows(self, statement: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        text = statement.text(_DIALECT)
        return self._connection.execute(text, statement.parameters(values)).fetchall()

    async def execute_many(self, statement: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        text = statement.text(_DIALECT)
        return self._connection.executemany(text, map(statement.parameters, values)).rowcount


class _ConnectionThread:
    """A thread that makes one call after another with its connection to a file. It starts with the first call.

    It is a daemon: a process that ends does not wait for it.
    """

    def __init__(self, name: str, file: SQLiteFile) -> None:
        self._name = name
        self._connection = _Connection(file)
        self._calls: SimpleQueue[_Call | None] | None = None

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return the function's result. The call is skipped when its caller is cancelled before it begins."""
        return await self._put(lambda: function(self._connection.current()))

    async def close(self) -> None:
        """Close the connection after the calls that wait, and end the thread."""
        if self._calls is None:
            return
        closed = self._put(self._connection.close)
        self._calls.put(None)
        self._calls = None
        await asyncio.shield(closed)

    def _put(self, function: Callable[[], T]) -> asyncio.Future[T]:
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(target=_make_calls, args=(self._calls,), name=self._name, daemon=True).start()
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future())
        self._calls.put(call)
        return call.done


@dataclass(frozen=True, slots=True)
class _Call:
    """A call to make in a thread; `done` gets its result, or SQLAlchemy's error for one of SQLite."""

    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]

    def make(self) -> None:
        if self.done.cancelled():
            return
        value: Any = None
        failure: BaseException | None = None
        try:
            value = self.function()
        except sqlite3.Error as error:
            kind = IntegrityError if isinstance(error, sqlite3.IntegrityError) else OperationalError
            failure = kind(None, None, error, hide_parameters=True)
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - the caller gets every error
            failure = error
        with suppress(RuntimeError):  # the event loop is closed: nobody waits for the result
            self.loop.call_soon_threadsafe(self._finish, value, failure)

    def _finish(self, value: Any, failure: BaseException | None) -> None:
        if self.done.cancelled():
            return
        if failure is None:
            self.done.set_result(value)
        else:
            self.done.set_exception(failure)


def _make_calls(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        call.make()
        del call  # its result may be large


class _Connection:
    """A connection to a file, opened again when the file is deleted or replaced."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file
        self._open: tuple[sqlite3.Connection, FileIds] | None = None

    def current(self) -> sqlite3.Connection:
        """Return the open connection, or a new one."""
        if self._open is not None and self._file.is_lost(self._open[1]):
            self.close()
        if self._open is None:
            self._file.prepare_opening()
            connection = sqlite3.connect(self._file.path)
            configure_connection(connection)
            self._open = connection, self._file.opened()
        return self._open[0]

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._open is not None:
            connection, self._open = self._open[0], None
            connection.close()
