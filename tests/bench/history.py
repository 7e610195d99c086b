"""`make bench-history`: what a session's history costs among a million rows, on both databases."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.storage.availability import Availability
from flowpod.storage.database import Database
from flowpod.storage.sessions.archive import Archive
from flowpod.storage.sessions.turns import TurnWriter
from tests.support.history import Sessions, opened, turn
from tests.support.mariadb import running_mariadb

ROWS, LONG, ROUNDS, TIMES = 1_000_000, 10_000, 20, 200
_BATCH = 20_000
WRITERS, TURNS, BATCHES = 8, 16, 25


async def fill(database: Database) -> None:
    """Store a session of LONG turns and ROWS turns of others, a hundred to a session."""
    schema = database.schema
    turns, sessions = schema.turns.name, schema.sessions.name
    row = (
        '\'Completed\', \'{"question":"What is the answer?"}\', \'{"answer":"' + "word " * 40 + "\"}', NULL, '0x', "
        "'2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', 250"
    )
    columns = "session_id, turn, run_id, status, inputs, outputs, error, otel_trace_id, started_at, finished_at, size"
    names = [("long", number) for number in range(1, LONG + 1)]
    names += [(f"s{number // 100}", number % 100 + 1) for number in range(ROWS - LONG)]
    for start in range(0, len(names), _BATCH):
        part = names[start : start + _BATCH]
        values = ", ".join(f"('{session}', {turn}, 'r{start + n}', {row})" for n, (session, turn) in enumerate(part))
        last: dict[str, int] = dict(part)
        heads = ", ".join(
            f"('{session}', NULL, 0, 'What is the answer?', {turn}, '2026-01-01 00:00:00.000000', "
            f"'2026-01-01 00:00:00.000000')"
            for session, turn in last.items()
        )
        head = "session_id, user_id, assigned, title, last_turn, created_at, updated_at"
        statements = [
            f"INSERT INTO {turns} ({columns}) VALUES {values}",
            f"REPLACE INTO {sessions} ({head}) VALUES {heads}",
        ]
        await database.transact(partial(_execute, statements))


async def _execute(statements: list[str], connection: AsyncConnection) -> None:
    for statement in statements:
        await connection.execute(text(statement.replace(":", "\\:")))  # a colon would be a parameter


async def measured(work: Callable[[int], Awaitable[object]]) -> str:
    """Return the median and the 99th percentile of `work`, in milliseconds."""
    seconds = []
    for number in range(TIMES):
        begun = time.perf_counter()
        await work(number)
        seconds.append(time.perf_counter() - begun)
    cuts = statistics.quantiles(seconds, n=100)
    return f"{statistics.median(seconds) * 1000:6.2f} {cuts[98] * 1000:6.2f}"


async def bench(name: str, url: str) -> None:
    """Fill a database and print what it costs to use it."""
    async with opened(url) as (database, store):
        begun = time.monotonic()
        await fill(database)
        print(
            f"{name}: {ROWS} turns stored in {time.monotonic() - begun:.0f} s; milliseconds, median and p99:",
            flush=True,
        )
        await report(database, store)


async def report(database: Database, store: Sessions) -> None:
    """Print the cost of what runs and the archive do."""
    availability = Availability()
    availability.migrated = True
    availability.mark_available()
    archive = Archive(database, availability)
    works: dict[str, Callable[[int], Awaitable[object]]] = {
        f"the last {ROUNDS} of {LONG} turns": lambda _: store.find_session("long", ROUNDS),
        f"the last {ROUNDS} of 100 turns": lambda number: store.find_session(f"s{number * 7}", ROUNDS),
        "a session that is not there": lambda number: store.find_session(f"new{number}", ROUNDS),
        f"turn {LONG + 1} and on": lambda number: store.add_turn(turn("long", f"more{number}")),
        "the first turn of a session": lambda number: store.add_turn(turn(f"new{number}", f"first{number}")),
        "a page of sessions": lambda _: archive.list_sessions(None, None, 20),
        "a page of turns": lambda number: archive.list_turns("long", number * 40, 100),
    }
    for what, work in works.items():
        print(f"  {what:34} {await measured(work)}", flush=True)
    print(
        f"  {await turns_per_s(database):.0f} turns a second of {WRITERS} writers, {TURNS} in a transaction", flush=True
    )
    begun = time.perf_counter()
    totals = await archive.read_totals(None)
    print(f"  totals {(time.perf_counter() - begun) * 1000:.0f} ms: {totals}", flush=True)


async def turns_per_s(database: Database) -> float:
    """Return how many turns the database takes from writers that do not pause, each a session's first."""

    async def write(number: int) -> None:
        writer = TurnWriter(database)
        for batch in range(BATCHES):
            names = [f"w{number}-{batch}-{turn}" for turn in range(TURNS)]
            assert not await writer.append_turns([turn(name, f"run-{name}") for name in names])

    begun = time.perf_counter()
    await asyncio.gather(*map(write, range(WRITERS)))
    return WRITERS * TURNS * BATCHES / (time.perf_counter() - begun)


def main() -> None:
    """Measure SQLite, then MariaDB."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        asyncio.run(bench("SQLite", f"sqlite:///{Path(folder) / 'history.db'}"))
        server = stack.enter_context(running_mariadb(Path(folder) / "mariadb"))
        asyncio.run(bench("MariaDB", server.new_database("bench")))


if __name__ == "__main__":
    main()
