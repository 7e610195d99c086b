"""The tables of a service, with the names that LangStudio gives them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, UniqueConstraint
from sqlalchemy.schema import SchemaItem

from flowpod.storage.dialects.base import ColumnTypes

RecordStatus = Literal["Queued", "Running", "Completed", "Failed", "Canceled"]
"""The status of a recorded run."""
ACTIVE: Sequence[RecordStatus] = ("Queued", "Running")
"""The status of a run that has not ended."""

TITLE_LENGTH = 120
AddTable = Callable[..., Table]


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one service; times are UTC.

    A session's `last_turn` is the number of its newest turn; deleting turns does not change it, so numbers are never
    used again. A turn's `size` is that of its inputs and outputs, in bytes of JSON. A row of `events` holds consecutive
    events of a run as a JSON array, and `last` is the number of the last one. `cancel_requests` are for runs that have
    no row in `runs`; `taken` says that the instance performing the run has accepted the request.
    """

    service: str
    metadata: MetaData
    sessions: Table
    turns: Table
    variables: Table
    migrations: Table
    runs: Table
    events: Table
    cancel_requests: Table


def schema_of(service: str, types: ColumnTypes) -> Schema:
    """Return the tables `langstudio_chat_session_<service>`, `..._history_<service>` and so on."""
    metadata = MetaData()

    def add_table(name: str, *items: SchemaItem) -> Table:
        return Table(f"langstudio_{name}_{service}", metadata, *items, **types.table_options)

    sessions, turns, variables = _session_tables(service, add_table, types)
    migrations = add_table(
        "chat_migration",
        Column("name", String(64), primary_key=True),
        Column("applied_at", types.time, nullable=False),
    )
    runs, events, cancel_requests = _run_tables(service, add_table, types)
    return Schema(service, metadata, sessions, turns, variables, migrations, runs, events, cancel_requests)


def _session_tables(service: str, add_table: AddTable, types: ColumnTypes) -> tuple[Table, Table, Table]:
    sessions = add_table(
        "chat_session",
        Column("session_id", types.identifier, primary_key=True),
        Column("user_id", types.identifier),
        Column("assigned", Boolean(create_constraint=False), nullable=False),
        Column("title", String(TITLE_LENGTH)),
        Column("last_turn", Integer, nullable=False),
        Column("created_at", types.time, nullable=False),
        Column("updated_at", types.time, nullable=False),
        # SQLite has one set of index names for the whole database.
        Index(f"ix_{service}_user", "user_id", "updated_at", "session_id"),
        Index(f"ix_{service}_updated", "updated_at", "session_id"),
        Index(f"ix_{service}_assigned", "assigned", "updated_at"),
    )
    turns = add_table(
        "chat_history",
        Column("id", types.serial, primary_key=True, autoincrement=True),
        Column("session_id", types.identifier, nullable=False),
        Column("turn", Integer, nullable=False),
        Column("run_id", String(64), nullable=False),
        Column("status", String(16), nullable=False),
        Column("inputs", types.json, nullable=False),
        Column("outputs", types.json, nullable=False),
        Column("error", types.json),
        Column("size", BigInteger, nullable=False),
        Column("otel_trace_id", String(34), nullable=False),
        Column("started_at", types.time, nullable=False),
        Column("finished_at", types.time, nullable=False),
        UniqueConstraint("session_id", "turn"),
        UniqueConstraint("run_id"),
        Index(f"ix_{service}_finished", "finished_at"),
    )
    variables = add_table(
        "chat_variable",
        Column("session_id", types.identifier, primary_key=True),
        Column("name", types.identifier, primary_key=True),
        Column("value", types.json, nullable=False),
    )
    return sessions, turns, variables


def _run_tables(service: str, add_table: AddTable, types: ColumnTypes) -> tuple[Table, Table, Table]:
    runs = add_table(
        "run",
        Column("run_id", String(64), primary_key=True),
        Column("session_id", types.identifier, nullable=False),
        Column("user_id", types.identifier),
        Column("idempotency_key", String(64)),
        Column("fingerprint", String(64), nullable=False),
        Column("facts", types.json, nullable=False),
        Column("status", String(16), nullable=False),
        Column("last_event", Integer, nullable=False),
        Column("owner", String(64), nullable=False),
        Column("lease_until", types.time, nullable=False),
        Column("cancel_requested", Boolean(create_constraint=False), nullable=False),
        Column("created_at", types.time, nullable=False),
        Column("started_at", types.time),
        Column("finished_at", types.time),
        UniqueConstraint("idempotency_key"),
        Index(f"ix_{service}_run_owner", "owner", "status"),
        Index(f"ix_{service}_run_lease", "status", "lease_until"),
        Index(f"ix_{service}_run_session", "session_id"),
        Index(f"ix_{service}_run_finished", "finished_at"),
    )
    events = add_table(
        "run_event",
        Column("run_id", String(64), primary_key=True),
        Column("last", Integer, primary_key=True, autoincrement=False),
        Column("events", types.json, nullable=False),
    )
    cancel_requests = add_table(
        "run_cancel",
        Column("id", types.serial, primary_key=True, autoincrement=True),
        Column("run_id", String(64), nullable=False),
        Column("user_id", types.identifier),
        Column("taken", Boolean(create_constraint=False), nullable=False),
        Column("asked_at", types.time, nullable=False),
    )
    return runs, events, cancel_requests
