"""The local trace store: searches, filters, pages and limits."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowpod.jsonable import dumps
from flowpod.telemetry.trace_store import Filters, Span, Summary, TraceStore

SUMMARY = Summary(
    trace_id="0x" + "a" * 32,
    run_id="run-1",
    request_id="request-1",
    session_id="session-1",
    user_id="ann",
    name="invoke_workflow flow",
    protocol="simple",
    started_ns=1_000_000_000,
    duration_ns=500_000_000,
    status="Completed",
    error="",
    input='{"question":"How much is 100%?"}',
    output='{"answer":"All_of it"}',
    prompt_tokens=1,
    completion_tokens=2,
)
HUGE = 1 << 40


def store_in(folder: Path, **limits: Any) -> TraceStore:
    return TraceStore(folder / "traces.db", **{"max_bytes": HUGE, "max_age_s": 1e9, **limits})


def span(number: int = 1, text: str = "") -> Span:
    return {"span_id": f"{number:016x}", "parent_id": None, "name": "n", "start_ns": 1, "attributes": {"a": text}}


def runs(store: TraceStore, **filters: Any) -> list[str]:
    return [stored.summary.run_id for stored in store.newest(Filters(**filters), 100)]


def test_a_missing_store_finds_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert (list(store.newest(Filters(), 10)), store.find("x").runs) == ([], [])
    assert not store.path.exists()


@pytest.mark.parametrize("name", ["0x" + "a" * 32, "a" * 32, "A" * 32, "run-1", "request-1", "session-1", "run-1-"[:6]])
def test_a_run_is_found_by_every_id(tmp_path: Path, name: str) -> None:
    store = store_in(tmp_path)
    store.add([(replace(SUMMARY, run_id="run-1-and-more" if name == "run-1-" else "run-1"), dumps([span(1, "é中")]))])
    (found,) = store.find(name).runs
    assert found.summary.trace_id == SUMMARY.trace_id
    assert list(found.spans) == [span(1, "é中")]


def test_an_empty_or_unknown_id_finds_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add([(replace(SUMMARY, session_id="", request_id=""), dumps([span()]))])
    assert store.find("").runs == []
    assert store.find("other-id").runs == []


def test_a_trace_id_finds_all_its_runs(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add([(replace(SUMMARY, run_id="one"), dumps([span(1)])), (replace(SUMMARY, run_id="two"), dumps([span(2)]))])
    assert [stored.summary.run_id for stored in store.find(SUMMARY.trace_id).runs] == ["one", "two"]
    assert [stored.summary.run_id for stored in store.find("session-1").runs] == ["two"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["slow", "fine"]),
        ({"session": "s2"}, ["slow"]),
        ({"user": "ann"}, ["fine"]),
        ({"status": "Failed"}, ["slow"]),
        ({"min_duration_s": 1.0}, ["slow"]),
        ({"max_duration_s": 0.5}, ["fine"]),
        ({"min_duration_s": 0.1, "max_duration_s": 0.6, "user": "ann"}, ["fine"]),
        ({"text": "100%"}, ["fine"]),
        ({"text": "0%?"}, ["fine"]),
        ({"text": "l_o"}, ["fine"]),
        ({"text": "OUT OF"}, ["slow"]),
        ({"text": "%"}, ["fine"]),
        ({"text": "\\"}, []),
    ],
)
def test_filters(tmp_path: Path, filters: dict[str, Any], expected: list[str]) -> None:
    store = store_in(tmp_path)
    slow = replace(SUMMARY, run_id="slow", session_id="s2", user_id="bob", status="Failed", error="out of tokens")
    slow = replace(slow, duration_ns=2_000_000_000, input="{}", output="{}")
    store.add([(replace(SUMMARY, run_id="fine"), b"[]"), (slow, b"[]")])
    assert runs(store, **filters) == expected


def test_the_next_page_starts_after_the_last_run(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add([(replace(SUMMARY, run_id=str(number)), b"[]") for number in range(5)])
    first = store.newest(Filters(), 2)
    second = store.newest(Filters(), 2, first[-1].id)
    assert [stored.summary.run_id for stored in [*first, *second]] == ["4", "3", "2", "1"]


def test_late_spans_are_added_to_their_run(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    (number,) = store.add([(SUMMARY, dumps([span(1)]))])
    store.extend({number: [span(2)], 999: [span(3)]})
    assert [item["span_id"][-1] for item in store.find("run-1").runs[0].spans] == ["1", "2"]


def test_old_runs_are_deleted(tmp_path: Path) -> None:
    store = store_in(tmp_path, max_age_s=10)
    store.add([(replace(SUMMARY, run_id=str(second), started_ns=second * 10**9), b"[]") for second in (1, 5, 9)])
    store.prune(now_ns=15 * 10**9)
    assert runs(store) == ["9", "5"]


def test_the_oldest_runs_are_deleted_when_the_file_is_full(tmp_path: Path) -> None:
    import random

    noise = random.Random(1)  # which cannot be compressed
    store = store_in(tmp_path, max_bytes=400_000)
    for number in range(60):
        text = "".join(noise.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
        store.add([(replace(SUMMARY, run_id=str(number)), dumps([span(1, text)]))])
        if store.is_full():
            store.prune(now_ns=0)
    kept = runs(store)
    assert kept[0] == "59"
    assert 10 < len(kept) < 40
    assert kept == [str(number) for number in range(59, 59 - len(kept), -1)]
    assert store.path.stat().st_size < 450_000


def test_several_writers_and_readers_share_the_file(tmp_path: Path) -> None:
    ready = threading.Barrier(4)

    def write(writer: int) -> None:
        store = store_in(tmp_path)
        ready.wait()
        for number in range(20):
            store.add([(replace(SUMMARY, run_id=f"{writer}-{number}"), dumps([span()]))])
            store.newest(Filters(), 5)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, writer) for writer in range(4)]:
            done.result()
    assert len(set(runs(store_in(tmp_path)))) == 80


def test_an_invalid_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "traces.db").write_text("not a database, and long enough to look like one" * 10)
    with pytest.raises(sqlite3.DatabaseError):
        store_in(tmp_path).newest(Filters(), 1)
