"""The store's contract, the same for both databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidRequest
from runtime.history.store import Session, Store, Turn, history_address

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
    }
    return Turn(**facts | changes)


def pair(run: str) -> dict[str, dict[str, str]]:
    return {"inputs": {"question": f"q {run}"}, "outputs": {"answer": f"a {run}"}}


@asynccontextmanager
async def opened(url: str, service: str = "svc") -> AsyncIterator[Store]:
    store = Store(history_address(url), service)
    await store.create_tables()
    try:
        yield store
    finally:
        await store.close()


async def test_turns_come_back_oldest_first_and_limited(history_url: str) -> None:
    async with opened(history_url) as store:
        assert await store.session("s") is None
        for number in range(5):
            await store.add_turn(turn(run=f"r{number}"))
        assert await store.session("s") == Session("s", None, 5)
        assert await store.completed_turns("s", 3) == [pair("r2"), pair("r3"), pair("r4")]
        assert await store.completed_turns("other", 3) == []


async def test_failed_turns_are_stored_and_stay_out_of_the_conversation(history_url: str) -> None:
    async with opened(history_url) as store:
        await store.add_turn(turn(run="r1"))
        await store.add_turn(turn(run="r2", status="Failed", error={"message": "x"}))
        await store.add_turn(turn(run="r3", status="Canceled"))
        assert await store.completed_turns("s", 9) == [pair("r1")]
        assert await store.session("s") == Session("s", None, 3)


async def test_a_run_is_stored_once(history_url: str) -> None:
    async with opened(history_url) as store:
        await store.add_turn(turn())
        await store.add_turn(turn())
        assert await store.session("s") == Session("s", None, 1)


async def test_the_first_user_keeps_the_session(history_url: str) -> None:
    async with opened(history_url) as store:
        await store.add_turn(turn(run="r1"))
        await store.add_turn(turn(run="r2", user_id="ann"))
        await store.add_turn(turn(run="r3", user_id="bob"))
        assert await store.session("s") == Session("s", "ann", 3)


async def test_ids_that_differ_in_case_are_two_sessions(history_url: str) -> None:
    async with opened(history_url) as store:
        await store.add_turn(turn("abc", "r1"))
        await store.add_turn(turn("ABC", "r2"))
        assert await store.completed_turns("abc", 9) == [pair("r1")]
        assert await store.completed_turns("ABC", 9) == [pair("r2")]


async def test_emoji_and_a_megabyte_survive(history_url: str) -> None:
    long = "\U0001f600 \u00e9\u4f60'\"\\%s:x\0" * 100_000
    async with opened(history_url) as store:
        await store.add_turn(turn(outputs={"answer": long}, user_id="\U0001f600"))
        assert (await store.completed_turns("s", 1))[0]["outputs"] == {"answer": long}
        assert (await store.session("s")) == Session("s", "\U0001f600", 1)


async def test_writers_of_one_session_lose_nothing(history_url: str) -> None:
    async with opened(history_url) as one, opened(history_url) as two:
        await one.add_turn(turn(run="first"))
        await asyncio.gather(
            *(store.add_turn(turn(run=f"{name}{n}")) for n in range(20) for name, store in (("a", one), ("b", two)))
        )
        assert await one.session("s") == Session("s", None, 41)
        assert len(await two.completed_turns("s", 99)) == 41


async def test_services_share_a_database_and_nothing_else(history_url: str) -> None:
    async with opened(history_url, "one") as one, opened(history_url, "two") as two:
        await one.add_turn(turn())
        assert await two.session("s") is None


async def test_single_turns_under_assigned_ids_are_deleted_when_old(history_url: str) -> None:
    old = NOW - timedelta(days=2)
    async with opened(history_url) as store:
        await store.add_turn(turn("old", "r1", assigned=True, finished_at=old))
        await store.add_turn(turn("new", "r2", assigned=True))
        await store.add_turn(turn("named", "r3", finished_at=old))
        await store.add_turn(turn("two", "r4", assigned=True, finished_at=old))
        await store.add_turn(turn("two", "r5", assigned=True, finished_at=old))
        assert await store.delete_single_turns(NOW - timedelta(days=1), 100) == 1
        kept = [name for name in ("old", "new", "named", "two") if await store.session(name)]
        assert kept == ["new", "named", "two"]
        assert await store.completed_turns("old", 1) == []


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///:memory:", "postgresql://h/d", "mysql://host", "mysql:///db", "nonsense"]
)
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="FLOWPOD_HISTORY: expected sqlite:///path"):
        history_address(url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=r"folder .*/file/x cannot be made"):
        Store(history_address(f"sqlite:///{tmp_path / 'file' / 'x' / 'h.db'}"), "svc")
