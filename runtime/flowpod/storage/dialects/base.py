"""The interface of a dialect: everything that differs between one database and another."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sqlalchemy import Insert, Table, insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import TypeEngine

from flowpod.storage.prepared import DirectConnections

ID_LENGTH = 255
"""The longest id of a session or user, in characters."""
POOL_TIMEOUT_S = 3600
"""A statement may wait this long for a connection: waiting for others is no failure of the database."""


@dataclass(frozen=True, slots=True)
class ColumnTypes:
    """The column types of a database.

    `identifier` compares case-sensitively, `json` holds text of any length, `time` keeps microseconds, and `serial`
    numbers rows automatically. `table_options` are SQLAlchemy's keyword arguments of each table.
    """

    identifier: TypeEngine[str]
    json: TypeEngine[str]
    time: TypeEngine[Any]
    serial: TypeEngine[int]
    table_options: Mapping[str, Any] = field(default_factory=dict)


class Dialect(ABC):
    """One database: where it is, and how its product differs from others.

    To support another product, add a module with a subclass and list the class in `DIALECTS`.
    """

    url_form: ClassVar[str]
    """The URL to put into FLOWPOD_HISTORY, for error messages."""
    column_types: ClassVar[ColumnTypes]
    ignore_prefix: ClassVar[str]
    """What makes an INSERT skip a row whose key is already in the table."""
    inserts_sessions_first: ClassVar[bool]
    """Whether a session's row must be inserted in a transaction of its own, before the one that updates it."""
    may_stop_responding: ClassVar[bool]
    """Whether a statement may never end. A server can stop responding, and a network can fail; a file cannot."""
    password: str | None = None
    """The password in its address, so that logs can redact it."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: URL, password: str | None) -> Self | None:
        """Return the database at `url`, or None when the URL is not of this dialect's form.

        Raises InvalidRequest for an invalid option.
        """

    @abstractmethod
    def create_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Return the engine for reading and the engine for writing, which may be the same one.

        Raises InvalidRequest when this machine cannot hold the database.
        """

    def create_direct_connections(self) -> DirectConnections | None:
        """Return what runs operations faster than SQLAlchemy's connections, or None if nothing does."""
        return None

    def prepare(self) -> None:  # noqa: B027 - most databases need nothing
        """Create what the database needs on this machine. Raises InvalidRequest when that is not possible."""

    @abstractmethod
    async def read_limits(self, connection: AsyncConnection) -> None:
        """Read the limits that the server sets; called once, before the tables are migrated."""

    @abstractmethod
    def migration_lock(self, connection: AsyncConnection, service: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock under which one instance at a time migrates the tables of a service.

        The block commits before it ends, so that the next instance sees which migrations have been applied.
        """

    @abstractmethod
    def is_deadlock(self, error: OperationalError) -> bool:
        """Return whether the database ended a transaction that can succeed when it is run again."""

    def insert_ignore(self, table: Table) -> Insert:
        """Return an INSERT that skips a row whose key is already in the table."""
        return insert(table).prefix_with(self.ignore_prefix)

    @abstractmethod
    def why_too_large(self, texts: Sequence[str]) -> str:
        """Return why one statement cannot carry all of these texts, or ""."""

    @abstractmethod
    async def size_on_disk(self, connection: AsyncConnection, tables: Sequence[str]) -> int:
        """Return the bytes that the tables take up on disk, as far as the database tells."""
