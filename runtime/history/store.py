"""The history's statements, over SQLite or MySQL."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, and_, delete, event, func, insert, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateTable

from runtime.errors import InvalidRequest
from runtime.history.schema import schema_of
from runtime.jsonable import dumps

_BUSY_TIMEOUT_MS = 5000
_READERS = 4
_MYSQL_POOL = 10


@dataclass(frozen=True, slots=True)
class Session:
    """A stored session; `turns` counts all its turns, failed ones too."""

    session_id: str
    user_id: str | None
    turns: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a session as it is stored. `assigned`: the service made the session's id up.

    `variables` are those of the session that the run wrote.
    """

    session_id: str
    user_id: str | None
    assigned: bool
    run_id: str
    status: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    error: Mapping[str, Any] | None
    otel_trace_id: str
    started_at: datetime
    finished_at: datetime
    variables: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """The tables of one service in one database. Every method is one transaction, or raises SQLAlchemy's errors."""

    def __init__(self, address: URL, service: str) -> None:
        """Raise InvalidRequest when the folder of a database file cannot be made or written."""
        self._schema = schema_of(service)
        if address.get_backend_name() == "sqlite":
            _make_folder(Path(address.database or ""))
            # One writer a process: SQLite has one at a time, and a queue here beats a lock there.
            self._writer = create_async_engine(address, pool_size=1, max_overflow=0)
            self._reader = create_async_engine(address, pool_size=_READERS, max_overflow=0)
            event.listen(self._writer.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._writer.sync_engine, "begin", _begin_immediate)
            event.listen(self._reader.sync_engine, "connect", _prepare_sqlite)
        else:
            self._writer = self._reader = create_async_engine(
                address, pool_size=_MYSQL_POOL, max_overflow=0, pool_pre_ping=True, pool_recycle=1800
            )

    async def create_tables(self) -> None:
        """Create the tables that are missing."""
        async with self._writer.begin() as connection:
            for table in self._schema.metadata.sorted_tables:
                await connection.execute(CreateTable(table, if_not_exists=True))

    async def session(self, session_id: str) -> Session | None:
        """Return a session, or None when it is not stored."""
        sessions, turns = self._schema.sessions, self._schema.turns
        last = select(func.max(turns.c.turn)).where(turns.c.session_id == session_id).scalar_subquery()
        query = select(sessions.c.user_id, func.coalesce(last, 0)).where(sessions.c.session_id == session_id)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Session(session_id, row[0], row[1])

    async def completed_turns(self, session_id: str, limit: int) -> list[dict[str, Any]]:
        """Return the last `limit` completed turns, oldest first, as `{"inputs": {...}, "outputs": {...}}`."""
        turns = self._schema.turns
        query = (
            select(turns.c.inputs, turns.c.outputs)
            .where(turns.c.session_id == session_id, turns.c.status == "Completed")
            .order_by(turns.c.turn.desc())
            .limit(limit)
        )
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [{"inputs": orjson.loads(row[0]), "outputs": orjson.loads(row[1])} for row in reversed(rows)]

    async def variables(self, session_id: str) -> dict[str, Any]:
        """Return the session's variables that were ever written."""
        variables = self._schema.variables
        query = select(variables.c.name, variables.c.value).where(variables.c.session_id == session_id)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return {row[0]: orjson.loads(row[1]) for row in rows}

    async def add_turn(self, turn: Turn) -> None:
        """Store a turn as the next one of its session; a turn whose run is stored already changes nothing."""
        sessions, turns = self._schema.sessions, self._schema.turns
        finished = _naive(turn.finished_at)
        new_session = (
            insert(sessions)
            .prefix_with("OR IGNORE", dialect="sqlite")
            .prefix_with("IGNORE", dialect="mysql")
            .values(
                session_id=turn.session_id,
                user_id=turn.user_id,
                assigned=turn.assigned,
                created_at=_naive(turn.started_at),
                updated_at=finished,
            )
        )
        # The session's row is the lock under which its turns are numbered.
        touched = (
            update(sessions)
            .where(sessions.c.session_id == turn.session_id)
            .values(updated_at=finished, user_id=func.coalesce(sessions.c.user_id, turn.user_id))
        )
        stored = select(turns.c.id).where(turns.c.run_id == turn.run_id)
        last = select(func.coalesce(func.max(turns.c.turn), 0)).where(turns.c.session_id == turn.session_id)
        async with self._writer.begin() as connection:
            # Updated before it is inserted: an insert that meets the row would share it with others, who then could not
            # update it (a deadlock in MySQL).
            if not (await connection.execute(touched)).rowcount:
                await connection.execute(new_session)
                await connection.execute(touched)
            if (await connection.execute(stored)).first() is not None:
                return
            number = (await connection.execute(last.with_for_update())).scalar_one() + 1
            await connection.execute(
                insert(turns).values(
                    session_id=turn.session_id,
                    turn=number,
                    run_id=turn.run_id,
                    status=turn.status,
                    inputs=dumps(turn.inputs).decode(),
                    outputs=dumps(turn.outputs).decode(),
                    error=None if turn.error is None else dumps(turn.error).decode(),
                    otel_trace_id=turn.otel_trace_id,
                    started_at=_naive(turn.started_at),
                    finished_at=finished,
                )
            )
            await self._write_variables(connection, turn)

    async def _write_variables(self, connection: AsyncConnection, turn: Turn) -> None:
        """Write what the turn wrote, under the lock of its session's row."""
        variables = self._schema.variables
        for name, value in turn.variables.items():
            row = {"value": dumps(value).decode()}
            place = (variables.c.session_id == turn.session_id) & (variables.c.name == name)
            if not (await connection.execute(update(variables).where(place).values(row))).rowcount:
                names = {"session_id": turn.session_id, "name": name}
                await connection.execute(insert(variables).values(names | row))

    async def delete_single_turns(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` sessions of one turn, with ids that no client chose, last used before `before`.

        Returns how many were deleted.
        """
        sessions, turns = self._schema.sessions, self._schema.turns
        count = select(func.count()).where(turns.c.session_id == sessions.c.session_id).scalar_subquery()
        old = (
            select(sessions.c.session_id)
            .where(and_(sessions.c.assigned, sessions.c.updated_at < _naive(before), count <= 1))
            .limit(limit)
        )
        async with self._writer.begin() as connection:
            ids = list((await connection.execute(old)).scalars())
            if ids:
                variables = self._schema.variables
                await connection.execute(delete(turns).where(turns.c.session_id.in_(ids)))
                await connection.execute(delete(variables).where(variables.c.session_id.in_(ids)))
                await connection.execute(delete(sessions).where(sessions.c.session_id.in_(ids)))
        return len(ids)

    async def close(self) -> None:
        """Close every connection."""
        for engine in _unique(self._writer, self._reader):
            await engine.dispose()


def history_address(text: str) -> URL:
    """Return a database's address with its asyncio driver; the path of a file is made absolute.

    Raises InvalidRequest for anything but `sqlite:///file` and `mysql://host/database`.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is not None and url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite+aiosqlite", database=str(Path(url.database).absolute()))
    if url is not None and url.drivername == "mysql" and url.host and url.database:
        return url.set(drivername="mysql+aiomysql").update_query_dict({"charset": "utf8mb4"})
    raise InvalidRequest(
        "FLOWPOD_HISTORY: expected sqlite:///path/to/file.db, mysql://user:password@host/database or off"
    )


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the chat history's folder {path.parent} cannot be made: {error.strerror}") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidRequest(f"the chat history {path} cannot be written; set FLOWPOD_DATA_DIR or FLOWPOD_HISTORY")


def _unique(*engines: AsyncEngine) -> list[AsyncEngine]:
    return list(dict.fromkeys(engines))


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


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


def _begin_immediate(connection: Connection) -> None:
    # Taking the write lock at once keeps two processes from both reading the last turn's number.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
