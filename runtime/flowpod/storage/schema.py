"""The tables, named after the service as LangStudio names them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

RecordStatus = Literal["Queued", "Running", "Completed", "Failed", "Canceled"]
"""What a recorded run is."""
ACTIVE: Sequence[RecordStatus] = ("Queued", "Running")
"""What it is while it has not ended."""

_ID_LENGTH = 255
TITLE_LENGTH = 120

# Two ids that differ in case are two sessions, also in MySQL.
_Id = String(_ID_LENGTH).with_variant(mysql.VARCHAR(_ID_LENGTH, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
_Json = Text().with_variant(mysql.LONGTEXT(), "mysql")
_Time = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
_Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by themselves only under this type
_OPTIONS: Mapping[str, Any] = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"}


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one service; times are UTC.

    A session's `last_turn` is the number of its newest turn: numbers go on where old turns were deleted.
    A turn's `size` is that of its inputs and outputs, in bytes of JSON.
    A row of `events` has some events of a run, of which the last one is number `last`.
    `cancellations` are wishes for runs that have no row in `runs`.
    """

    service: str
    metadata: MetaData
    sessions: Table
    turns: Table
    variables: Table
    migrations: Table
    runs: Table
    events: Table
    cancellations: Table


def schema_of(service: str) -> Schema:
    """Return the tables `langstudio_chat_session_<service>`, `..._history_<service>` and so on."""
    metadata = MetaData()
    sessions = Table(
        f"langstudio_chat_session_{service}",
        metadata,
        Column("session_id", _Id, primary_key=True),
        Column("user_id", _Id),
        Column("assigned", Boolean(create_constraint=False), nullable=False),
        Column("title", String(TITLE_LENGTH)),
        Column("last_turn", Integer, nullable=False),
        Column("created_at", _Time, nullable=False),
        Column("updated_at", _Time, nullable=False),
        # Names of indexes are the database's in SQLite, and so carry the service's.
        Index(f"ix_{service}_user", "user_id", "updated_at", "session_id"),
        Index(f"ix_{service}_updated", "updated_at", "session_id"),
        Index(f"ix_{service}_assigned", "assigned", "updated_at"),
        **_OPTIONS,
    )
    turns = Table(
        f"langstudio_chat_history_{service}",
        metadata,
        Column("id", _Serial, primary_key=True, autoincrement=True),
        Column("session_id", _Id, nullable=False),
        Column("turn", Integer, nullable=False),
        Column("run_id", String(64), nullable=False),
        Column("status", String(16), nullable=False),
        Column("inputs", _Json, nullable=False),
        Column("outputs", _Json, nullable=False),
        Column("error", _Json),
        Column("size", BigInteger, nullable=False),
        Column("otel_trace_id", String(34), nullable=False),
        Column("started_at", _Time, nullable=False),
        Column("finished_at", _Time, nullable=False),
        UniqueConstraint("session_id", "turn"),
        UniqueConstraint("run_id"),
        Index(f"ix_{service}_finished", "finished_at"),
        **_OPTIONS,
    )
    variables = Table(
        f"langstudio_chat_variable_{service}",
        metadata,
        Column("session_id", _Id, primary_key=True),
        Column("name", _Id, primary_key=True),
        Column("value", _Json, nullable=False),
        **_OPTIONS,
    )
    migrations = Table(
        f"langstudio_chat_migration_{service}",
        metadata,
        Column("name", String(64), primary_key=True),
        Column("applied_at", _Time, nullable=False),
        **_OPTIONS,
    )
    return Schema(service, metadata, sessions, turns, variables, migrations, *_run_tables(service, metadata))


def _run_tables(service: str, metadata: MetaData) -> tuple[Table, Table, Table]:
    runs = Table(
        f"langstudio_run_{service}",
        metadata,
        Column("run_id", String(64), primary_key=True),
        Column("session_id", _Id, nullable=False),
        Column("user_id", _Id),
        Column("idempotency_key", String(64)),
        Column("fingerprint", String(64), nullable=False),
        Column("facts", _Json, nullable=False),
        Column("status", String(16), nullable=False),
        Column("last_event", Integer, nullable=False),
        Column("owner", String(64), nullable=False),
        Column("lease_until", _Time, nullable=False),
        Column("cancel_requested", Boolean(create_constraint=False), nullable=False),
        Column("created_at", _Time, nullable=False),
        Column("started_at", _Time),
        Column("finished_at", _Time),
        UniqueConstraint("idempotency_key"),
        Index(f"ix_{service}_run_owner", "owner", "status"),
        Index(f"ix_{service}_run_lease", "status", "lease_until"),
        Index(f"ix_{service}_run_session", "session_id"),
        Index(f"ix_{service}_run_finished", "finished_at"),
        **_OPTIONS,
    )
    events = Table(
        f"langstudio_run_event_{service}",
        metadata,
        Column("run_id", String(64), primary_key=True),
        Column("last", Integer, primary_key=True, autoincrement=False),
        Column("events", _Json, nullable=False),
        **_OPTIONS,
    )
    cancellations = Table(
        f"langstudio_run_cancel_{service}",
        metadata,
        Column("id", _Serial, primary_key=True, autoincrement=True),
        Column("run_id", String(64), nullable=False),
        Column("user_id", _Id),
        Column("taken", Boolean(create_constraint=False), nullable=False),
        Column("asked_at", _Time, nullable=False),
        **_OPTIONS,
    )
    return runs, events, cancellations
