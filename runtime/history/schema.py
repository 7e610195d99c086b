"""The tables, named after the service as LangStudio names them."""

from dataclasses import dataclass

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, String, Table, Text, UniqueConstraint
from sqlalchemy.dialects import mysql

_ID_LENGTH = 255

# Two ids that differ in case are two sessions, also in MySQL.
_Id = String(_ID_LENGTH).with_variant(mysql.VARCHAR(_ID_LENGTH, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
_Json = Text().with_variant(mysql.LONGTEXT(), "mysql")
_Time = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one service; times are UTC."""

    metadata: MetaData
    sessions: Table
    turns: Table
    variables: Table


def schema_of(service: str) -> Schema:
    """Return the tables `langstudio_chat_session_<service>`, `..._history_<service>` and `..._variable_<service>`."""
    metadata = MetaData()
    sessions = Table(
        f"langstudio_chat_session_{service}",
        metadata,
        Column("session_id", _Id, primary_key=True),
        Column("user_id", _Id),
        Column("assigned", Boolean(create_constraint=False), nullable=False),
        Column("created_at", _Time, nullable=False),
        Column("updated_at", _Time, nullable=False),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    turns = Table(
        f"langstudio_chat_history_{service}",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("session_id", _Id, nullable=False),
        Column("turn", Integer, nullable=False),
        Column("run_id", String(64), nullable=False),
        Column("status", String(16), nullable=False),
        Column("inputs", _Json, nullable=False),
        Column("outputs", _Json, nullable=False),
        Column("error", _Json),
        Column("otel_trace_id", String(34), nullable=False),
        Column("started_at", _Time, nullable=False),
        Column("finished_at", _Time, nullable=False),
        UniqueConstraint("session_id", "turn"),
        UniqueConstraint("run_id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    variables = Table(
        f"langstudio_chat_variable_{service}",
        metadata,
        Column("session_id", _Id, primary_key=True),
        Column("name", _Id, primary_key=True),
        Column("value", _Json, nullable=False),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    return Schema(metadata, sessions, turns, variables)
