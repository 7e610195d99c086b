"""The migration of the tables."""

import asyncio

import pytest
from sqlalchemy import Connection, text

from flowpod.errors import InvalidRequest
from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from flowpod.storage.migrations import MIGRATIONS, m001_initial, m002_runs
from flowpod.storage.schema import Schema
from tests.support.history import Sessions, turn


def m999_note(connection: Connection, schema: Schema) -> None:
    connection.execute(text(f"ALTER TABLE {schema.sessions.name} ADD COLUMN note VARCHAR(10)"))


async def test_each_migration_is_applied_once(history_url: str) -> None:
    database = Database(dialect_of(history_url), "svc")
    try:
        assert await database.migrate([m001_initial]) == ["m001_initial"]
        assert await database.migrate() == ["m002_runs"]  # as a later version does
        assert await database.migrate() == []
        assert await database.migrate([*MIGRATIONS, m999_note]) == ["m999_note"]
        # An instance of the old version works with the tables of the new one.
        assert await database.migrate() == []
        await Sessions(database).add_turn(turn())
    finally:
        await database.close()


async def test_ten_instances_that_start_together_apply_each_migration_once(history_url: str) -> None:
    databases = [Database(dialect_of(history_url), "svc") for _ in range(10)]
    try:
        await databases[0].migrate()  # one process at a time switches a new SQLite file to its log
        applied = await asyncio.gather(*(database.migrate([*MIGRATIONS, m999_note]) for database in databases))
        assert [name for names in applied for name in names] == ["m999_note"]
    finally:
        for database in databases:
            await database.close()


async def test_a_migration_that_was_applied_in_part_is_applied_again(history_url: str) -> None:
    database = Database(dialect_of(history_url), "svc")
    try:
        await database.transact(lambda connection: connection.run_sync(m001_initial, database.schema))
        await database.transact(lambda connection: connection.run_sync(m002_runs, database.schema))
        assert await database.migrate() == ["m001_initial", "m002_runs"]
    finally:
        await database.close()


async def test_a_table_that_is_not_flowpods_is_left_alone_and_named(history_url: str) -> None:
    database = Database(dialect_of(history_url), "svc")
    name = database.schema.sessions.name
    try:
        other = text(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, session_id VARCHAR(64))")
        await database.transact(lambda connection: connection.execute(other))
        with pytest.raises(InvalidRequest, match=f"the table {name} exists and is not Flowpod's: it has no user_id"):
            await database.migrate()
    finally:
        await database.close()
