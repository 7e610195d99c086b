"""The statements that every run has: compiled once, and in SQLite handed to the driver itself.

By way of SQLAlchemy one statement is four trips to the thread that aiosqlite keeps for a connection, and 0.3 ms of
processor time; by the driver's own methods it is one trip, and a tenth of that. The driver of MySQL has no thread, and
SQLAlchemy executes the same statements there.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import aiosqlite
from sqlalchemy import Dialect, Executable
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler


class PreparedStatement:
    """A statement whose parameters are bound by name."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._text = ""
        self._constants: Mapping[str, Any] = {}
        self._places: Sequence[tuple[str, Callable[[Any], Any] | None]] = ()

    def text(self, dialect: Dialect) -> str:
        """Return the statement in SQLite's words; all connections have the same ones."""
        if not self._text:
            compiled = self.statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every statement has it
            assert isinstance(compiled, SQLCompiler)
            types = {name: bind.type.dialect_impl(dialect) for name, bind in compiled.binds.items()}
            self._places = [(name, types[name].bind_processor(dialect)) for name in compiled.positiontup or ()]
            self._constants = compiled.params
            self._text = str(compiled)
        return self._text

    def values(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the parameters of the text in its order, as the driver takes them."""
        known = {**self._constants, **given}
        return tuple(known[name] if process is None else process(known[name]) for name, process in self._places)


class Executor(Protocol):
    """Executes prepared statements on one connection; may raise SQLAlchemy's errors."""

    async def rows(self, prepared: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        """Return the rows of a query for columns that need no conversion: texts and whole numbers."""

    async def change(self, prepared: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        """Execute a statement once for each of the values; return how many rows it has changed."""


async def executor_of(connection: AsyncConnection) -> Executor:
    """Return what executes prepared statements on a connection, as a part of its transaction."""
    if connection.dialect.name != "sqlite":
        return _BySqlalchemy(connection)
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    return _ByDriver(driver, connection.dialect)


class _BySqlalchemy:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, prepared: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        return (await self._connection.execute(prepared.statement, values)).all()

    async def change(self, prepared: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        return (await self._connection.execute(prepared.statement, values)).rowcount


class _ByDriver:
    def __init__(self, driver: aiosqlite.Connection, dialect: Dialect) -> None:
        self._driver = driver
        self._dialect = dialect

    async def rows(self, prepared: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        text = prepared.text(self._dialect)
        try:
            return list(await self._driver.execute_fetchall(text, prepared.values(values)))
        except sqlite3.Error as error:
            raise _as_sqlalchemy(text, error) from error

    async def change(self, prepared: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        text = prepared.text(self._dialect)
        try:
            async with self._driver.executemany(text, map(prepared.values, values)) as cursor:
                return cursor.rowcount
        except sqlite3.Error as error:
            raise _as_sqlalchemy(text, error) from error


def _as_sqlalchemy(text: str, error: sqlite3.Error) -> Exception:
    kind = IntegrityError if isinstance(error, sqlite3.IntegrityError) else OperationalError
    return kind(text, None, error, hide_parameters=True)
