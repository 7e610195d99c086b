"""Turns and databases for tests of the history."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from runtime.history.address import history_address
from runtime.history.database import Database
from runtime.history.store import Store, Turn

NOW = datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)


def turn(session: str = "s", run: str = "r1", **changes: Any) -> Turn:
    facts: dict[str, Any] = {
        "session_id": session,
        "user_id": None,
        "assigned": False,
        "run_id": run,
        "status": "Completed",
        "inputs": {"question": f"q {run}"},
        "outputs": {"answer": f"a {run}"},
        "error": None,
        "otel_trace_id": "0x" + "1" * 32,
        "started_at": NOW,
        "finished_at": NOW,
        "question": f"q {run}",
    }
    return Turn(**facts | changes)


def pair(run: str) -> dict[str, dict[str, str]]:
    return {"inputs": {"question": f"q {run}"}, "outputs": {"answer": f"a {run}"}}


@asynccontextmanager
async def opened(url: str, service: str = "svc") -> AsyncIterator[tuple[Database, Store]]:
    """Open a database with its tables, and the store that runs use."""
    database = Database(history_address(url), service)
    await database.migrate()
    try:
        yield database, Store(database)
    finally:
        await database.close()
