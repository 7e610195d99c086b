"""The migrations of the tables, in order; a table records those that have been applied.

Migrations only add: during an update, instances of the old version use the tables of the new one. A migration can be
applied twice, because MySQL does not roll back table changes, so each one checks what exists before it adds.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Table, inspect, select
from sqlalchemy.schema import CreateIndex, CreateTable

from flowpod.errors import InvalidRequest
from flowpod.storage.schema import Schema

Migration = Callable[[Connection, Schema], None]


def apply_migrations(connection: Connection, schema: Schema, migrations: Sequence[Migration]) -> list[str]:
    """Apply the migrations that have not been applied yet, or all if a table is missing, in order; return their names.

    The caller makes sure that one process at a time does so. Raises InvalidRequest when a table of the same name exists
    and is not Flowpod's.
    """
    table = schema.migrations
    connection.execute(CreateTable(table, if_not_exists=True))
    done = set(connection.execute(select(table.c.name)).scalars())
    due = [migration for migration in migrations if migration.__name__ not in done]
    if not due and not all(inspect(connection).has_table(table.name) for table in schema.metadata.sorted_tables):
        due = list(migrations)  # somebody has dropped a table
    for migration in due:
        migration(connection, schema)
        if migration.__name__ not in done:
            now = datetime.now(UTC).replace(tzinfo=None)
            connection.execute(table.insert().values(name=migration.__name__, applied_at=now))
    _check_columns(connection, schema)
    return [migration.__name__ for migration in due]


def m001_initial(connection: Connection, schema: Schema) -> None:
    """Create the tables of sessions, turns and variables."""
    _create_tables(connection, schema.sessions, schema.turns, schema.variables)


def m002_runs(connection: Connection, schema: Schema) -> None:
    """Create the tables of recorded runs, their events, and cancel requests."""
    _create_tables(connection, schema.runs, schema.events, schema.cancel_requests)


MIGRATIONS: Sequence[Migration] = (m001_initial, m002_runs)


def _create_tables(connection: Connection, *tables: Table) -> None:
    for table in tables:
        existed = inspect(connection).has_table(table.name)
        connection.execute(CreateTable(table, if_not_exists=True))
        if not existed:
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index))


def _check_columns(connection: Connection, schema: Schema) -> None:
    for table in schema.metadata.sorted_tables:
        if not inspect(connection).has_table(table.name):  # its migration is not one of those given
            continue
        present = {column["name"] for column in inspect(connection).get_columns(table.name)}
        if missing := [column.name for column in table.columns if column.name not in present]:
            raise InvalidRequest(
                f"the table {table.name} exists and is not Flowpod's: it has no {', '.join(missing)}. "
                "Name another database in FLOWPOD_HISTORY, or another service with FLOWPOD_SERVICE_NAME"
            )
