"""Searches of the trace store: their number, their time and the size of their answers are limited."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from flowpod.errors import Unavailable
from flowpod.jsonable import dumps
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.trace_reader import TraceReader
from flowpod.telemetry.trace_store import Filters, Stopped, TraceStore
from flowpod.telemetry.trace_writer import TraceWriter
from tests.support.flows import write_chat_flow
from tests.support.serving import serving
from tests.support.waiting import until
from tests.telemetry.test_trace_store import SUMMARY, span, store_in

SLOW_TEXT = "a" * 999 + "b"  # each of the texts below is compared with it from each of its characters on
TRACE = SUMMARY.trace_id
MAX_PAGE_BYTES = 10_000_000


def fill_slowly_searched(store: TraceStore) -> None:
    run = replace(SUMMARY, input="a" * 4000, output="a" * 4000, started_ns=time.time_ns())
    store.create_folder()
    store.add([(replace(run, run_id=str(number)), b"[]") for number in range(5000)])


@pytest.fixture
def processor(tmp_path: Path) -> Iterator[TraceWriter]:
    processor = TraceWriter(store_in(tmp_path), Metrics())
    yield processor
    processor.shutdown()


def search_slowly(store: TraceStore, stopped: Stopped) -> int:
    return len(store.newest(Filters(text=SLOW_TEXT), 10, stopped=stopped))


async def test_a_search_gets_the_store(processor: TraceWriter) -> None:
    processor.store.add([(SUMMARY, b"[]")])
    assert await TraceReader(processor).read(lambda store, _: store.newest(Filters(), 1)[0].summary) == SUMMARY


@pytest.mark.fault("searches of the traces that take long")
async def test_the_eleventh_search_is_refused(processor: TraceWriter) -> None:
    reader, go = TraceReader(processor), threading.Event()
    searches = [asyncio.create_task(reader.read(lambda *_: go.wait(30))) for _ in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await reader.read(lambda *_: True)
    assert refused.value.code == "traces_busy"
    go.set()
    assert await asyncio.gather(*searches) == [True] * 10
    await until(lambda: reader.free == 10)
    assert await reader.read(lambda *_: "again") == "again"


@pytest.mark.fault("searches of the traces that take long")
async def test_a_slow_search_is_stopped(processor: TraceWriter, figures: dict[str, object]) -> None:
    fill_slowly_searched(processor.store)
    before = time.process_time()
    with pytest.raises(Unavailable) as stopped:
        await TraceReader(processor, timeout_s=0.2).read(search_slowly)
    assert stopped.value.code == "traces_timeout"
    used = time.process_time() - before
    figures["CPU s before a search of 0.2 s was stopped"] = round(used, 1)
    assert used < 3


@pytest.mark.fault("searches of the traces that take long")
async def test_a_search_that_nobody_waits_for_is_stopped(processor: TraceWriter) -> None:
    fill_slowly_searched(processor.store)
    reader = TraceReader(processor, timeout_s=1000)
    searches = [asyncio.create_task(reader.read(search_slowly)) for _ in range(4)]
    await until(lambda: reader.free == 6)
    before = time.process_time()
    for search in searches:
        search.cancel()
    await until(lambda: reader.free == 10)
    assert time.process_time() - before < 3


@pytest.mark.fault("searches of the traces that take long")
async def test_searches_hold_nothing_else(tmp_path: Path) -> None:
    fill_slowly_searched(TraceStore(tmp_path / "data" / "traces.db", max_bytes=1 << 40))
    flow = write_chat_flow(tmp_path / "flow", "http://127.0.0.1:9/v1")
    with serving(flow, tmp_path) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:

            async def search() -> int:
                return (await client.get("/traces", params={"text": SLOW_TEXT})).status_code

            searches = [asyncio.create_task(search()) for _ in range(12)]
            await until(lambda: sum(task.done() for task in searches) == 2)  # the others run or wait
            assert {task.result() for task in searches if task.done()} == {503}
            for path in ("/metrics", "/healthz"):
                assert (await client.get(path)).status_code == 200
            assert (await client.post("/", json={"question": "hi"})).json()["error"]["code"] == "model_unreachable"
            for task in searches:
                task.cancel()
            async with asyncio.timeout(30):  # the clients have left, so their searches have ended
                while (await client.get("/traces", params={"limit": 1})).status_code != 200:
                    await asyncio.sleep(0.05)
        assert served.stop() == 0


def peak_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


@pytest.mark.fault("a trace of thousands of runs")
def test_a_large_trace_is_answered_in_pages(tmp_path: Path, figures: dict[str, object]) -> None:
    store = TraceStore(tmp_path / "data" / "traces.db", max_bytes=1 << 40)
    store.create_folder()
    whole = {**span(1, "x" * 100_000), "kind": "INTERNAL", "end_ns": 2, "status": "UNSET", "message": "", "events": []}
    store.add([(replace(SUMMARY, run_id=str(number)), dumps([whole])) for number in range(3000)])
    flow = write_chat_flow(tmp_path / "flow", "http://127.0.0.1:9/v1")
    with serving(flow, tmp_path) as served:
        before, cursor, names, largest = peak_mb(served.process.pid), "", list[str](), 0
        while True:
            answer = httpx.get(f"{served.url}/traces/{TRACE}", params={"limit": 100, "cursor": cursor}, timeout=60)
            page = answer.json()
            assert page["trace_id"] == TRACE
            names += [run["run_id"] for run in page["runs"]]
            largest = max(largest, len(answer.content))
            if "next_cursor" not in page:
                break
            cursor = page["next_cursor"]
        grown = figures["MB more resident"] = peak_mb(served.process.pid) - before
        figures["MB in the largest page"] = largest // 1_000_000
    assert names == [str(number) for number in range(3000)]
    assert largest < MAX_PAGE_BYTES
    assert grown < 120


@pytest.mark.fault("a trace of thousands of runs")
def test_spans_that_are_too_large_are_omitted(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add([(replace(SUMMARY, run_id="large"), dumps([span(1, "x" * 9_000_000)])), (SUMMARY, dumps([span()]))])
    large, small = store.find(TRACE).runs
    assert (large.summary.run_id, large.spans, large.spans_omitted) == ("large", [], True)
    assert (small.spans, small.spans_omitted) == ([span()], False)
    assert len(store.find("large", max_bytes=1 << 40).runs[0].spans) == 1
