"""How the tables came to be what they are: a list of small steps, and a table of those that were taken.

Steps only add: while a deployment is updated, instances of the old version go on with the tables of the new one. A step
may be taken twice, since MySQL does not undo half of one, so each looks before it adds.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Table, inspect, select
from sqlalchemy.schema import CreateIndex, CreateTable

from flowpod.errors import InvalidRequest
from flowpod.storage.schema import Schema

Migration = Callable[[Connection, Schema], None]


def migrate(connection: Connection, schema: Schema, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Take the steps that are missing, in order; return their names.

    The caller sees to it that one process does so at a time. Raises InvalidRequest when a table of that name exists and
    is not this program's.
    """
    applied = schema.migrations
    connection.execute(CreateTable(applied, if_not_exists=True))
    done = set(connection.execute(select(applied.c.name)).scalars())
    taken = []
    for step in MIGRATIONS if migrations is None else migrations:
        if step.__name__ not in done:
            step(connection, schema)
            now = datetime.now(UTC).replace(tzinfo=None)
            connection.execute(applied.insert().values(name=step.__name__, applied_at=now))
            taken.append(step.__name__)
    _check_columns(connection, schema)
    return taken


def m001_initial(connection: Connection, schema: Schema) -> None:
    """Create sessions, turns and variables."""
    _create(connection, schema.sessions, schema.turns, schema.variables)


def m002_runs(connection: Connection, schema: Schema) -> None:
    """Create recorded runs, their events, and cancellations."""
    _create(connection, schema.runs, schema.events, schema.cancellations)


MIGRATIONS: Sequence[Migration] = (m001_initial, m002_runs)


def _create(connection: Connection, *tables: Table) -> None:
    for table in tables:
        existed = inspect(connection).has_table(table.name)
        connection.execute(CreateTable(table, if_not_exists=True))
        if not existed:
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index))


def _check_columns(connection: Connection, schema: Schema) -> None:
    for table in schema.metadata.sorted_tables:
        if not inspect(connection).has_table(table.name):  # that of a step which was not asked for
            continue
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        if missing := [column.name for column in table.columns if column.name not in there]:
            raise InvalidRequest(
                f"the table {table.name} exists and is not Flowpod's: it has no {', '.join(missing)}. "
                "Name another database, or another service with FLOWPOD_SERVICE_NAME"
            )
