"""Statements that every run executes, compiled once, and the operations that consist of them.

An operation is an async function that awaits nothing but its executor. MySQL, whose driver uses the event loop, awaits
it; SQLite runs the same function from beginning to end in a thread.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Dialect, Executable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

T = TypeVar("T")


class PreparedStatement:
    """A statement whose parameters are bound by name."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._text = ""
        self._constants: Mapping[str, Any] = {}
        self._converters: Sequence[tuple[str, Callable[[Any], Any]]] = ()

    def text(self, dialect: Dialect) -> str:
        """Return the statement's SQL, compiled for the dialect of the first call, whose parameters must be named."""
        if not self._text:
            compiled = self.statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every statement has it
            assert isinstance(compiled, SQLCompiler)
            converters = {
                name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()
            }
            self._converters = [(name, convert) for name, convert in converters.items() if convert is not None]
            self._constants = compiled.params
            self._text = str(compiled)
        return self._text

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters by name, converted for the driver; `text` must have been called before."""
        parameters = {**self._constants, **values}
        for name, convert in self._converters:
            parameters[name] = convert(parameters[name])
        return parameters


class Executor(Protocol):
    """Executes prepared statements on one connection; may raise SQLAlchemy's errors."""

    async def fetch_rows(self, statement: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        """Return the rows of a query for columns that need no conversion: texts and integers."""

    async def execute_many(self, statement: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        """Execute a statement once for each mapping in `values`; return how many rows it changed."""


Operation = Callable[[Executor], Coroutine[Any, Any, T]]
"""What happens between the beginning and the end of a transaction; it awaits its executor alone."""


class DirectConnections(Protocol):
    """Runs operations without SQLAlchemy's connections; may raise SQLAlchemy's errors."""

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only reads, outside a transaction."""

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction, which is committed unless the operation raises an error."""

    async def close(self) -> None:
        """Close the connections, after the operations that have begun."""


class SQLAlchemyExecutor:
    """Executes prepared statements as SQLAlchemy does any statement."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def fetch_rows(self, statement: PreparedStatement, **values: Any) -> Sequence[Sequence[Any]]:
        """Return the rows of a query."""
        return (await self._connection.execute(statement.statement, values)).all()

    async def execute_many(self, statement: PreparedStatement, values: Sequence[Mapping[str, Any]]) -> int:
        """Execute a statement once for each mapping; return how many rows it changed."""
        return (await self._connection.execute(statement.statement, values)).rowcount
