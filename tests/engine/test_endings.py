"""However a run ends, RunTerminated is its one last event."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowpod.engine.events import NodeUpdated, RunOutput
from flowpod.engine.request import RunRequest
from flowpod.errors import InvalidRequest, TooManyRuns, Unavailable
from tests.support.flows import (
    SESSION,
    build,
    event_lines,
    run_error,
    run_flow,
    service_of,
    write_chat_flow,
    write_flow,
)
from tests.support.model_server import ModelServer

ONE_NODE = """
outputs:
  out: {type: string, reference: "${node.output}"}
nodes:
- {name: node, type: python, source: {path: node.py}}
"""

ASYNC_SLEEP = """
import asyncio

async def invoke():
    await asyncio.sleep(60)
"""

THREAD_SLEEP = """
import time

def invoke():
    time.sleep(3)
"""

STUBBORN = """
import asyncio

async def invoke():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


@pytest.mark.parametrize("code", [ASYNC_SLEEP, THREAD_SLEEP])
async def test_a_run_that_takes_too_long_fails(tmp_path: Path, code: str) -> None:
    events = await run_flow(write_flow(tmp_path, ONE_NODE, {"node.py": code}), {}, run_timeout_s=0.1)
    assert event_lines(events) == ["started", "node Running", "node Canceled", "terminated Failed"]
    error = run_error(events)
    assert (error.type, error.code) == ("run_error", "run_timeout")
    assert "0.1 s (FLOWPOD_RUN_TIMEOUT_S)" in error.message


@pytest.mark.parametrize("code", [ASYNC_SLEEP, THREAD_SLEEP])
async def test_a_cancelled_run_ends_at_once(tmp_path: Path, code: str) -> None:
    async with service_of(write_flow(tmp_path, ONE_NODE, {"node.py": code})) as service:
        run = await service.start(RunRequest({}, SESSION))
        events = []
        async for batch in run.events.batches():
            events += batch
            if event_lines(batch)[-1] == "node Running":
                run.cancel("the test says so")
    assert event_lines(events) == ["started", "node Running", "node Canceled", "terminated Canceled"]
    assert events[-1].error is not None  # type: ignore[union-attr]
    assert events[-1].error.code == "canceled"  # type: ignore[union-attr]


@pytest.mark.parametrize("stop", ["cancel", "time-out"])
async def test_a_model_call_ends_with_its_run(tmp_path: Path, model_server: ModelServer, stop: str) -> None:
    settings: dict[str, Any] = {"run_timeout_s": 0.2} if stop == "time-out" else {}
    async with service_of(write_chat_flow(tmp_path, model_server.url, "words:1000:0.02"), **settings) as service:
        run = await service.start(RunRequest({"question": "wait"}, SESSION))
        events = []
        async for batch in run.events.batches():
            events += batch
            if stop == "cancel" and any(isinstance(event, RunOutput) for event in batch):
                run.cancel("the test says so")
    nodes_and_ends = [line for line in event_lines(events) if not line.startswith("answer ")]
    status = "Canceled" if stop == "cancel" else "Failed"
    assert nodes_and_ends == ["started", "reply Running", "reply Canceled", f"terminated {status}"]
    assert run_error(events).code == ("canceled" if stop == "cancel" else "run_timeout")


async def test_an_abandoned_thread_is_counted_until_it_returns(tmp_path: Path) -> None:
    flow = write_flow(tmp_path, ONE_NODE, {"node.py": THREAD_SLEEP.replace("time.sleep(3)", "time.sleep(0.5)")})
    package = build(flow)
    waiting = asyncio.create_task(package.nodes["node"].run({}, None))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert package.resources.threads.abandoned == 1
    while package.resources.threads.abandoned:
        await asyncio.sleep(0.02)


async def test_a_node_that_refuses_to_be_cancelled_is_left_behind(tmp_path: Path) -> None:
    flow = write_flow(tmp_path, ONE_NODE, {"node.py": STUBBORN.replace("while True", "for _ in range(2)")})
    events = await run_flow(flow, {}, run_timeout_s=0.1)
    assert event_lines(events) == ["started", "node Running", "node Canceled", "terminated Failed"]


async def test_a_node_that_cancels_itself_fails(tmp_path: Path) -> None:
    code = """
    import asyncio

    async def invoke():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    """
    events = await run_flow(write_flow(tmp_path, ONE_NODE, {"node.py": code}), {})
    assert event_lines(events) == ["started", "node Running", "node Failed", "terminated Failed"]


async def test_a_reader_that_leaves_cancels_the_model_call(tmp_path: Path, model_server: ModelServer) -> None:
    model = "words:1000:0.02"
    async with service_of(write_chat_flow(tmp_path, model_server.url, model)) as service:
        run = await service.start(RunRequest({"question": "leave"}, SESSION))
        async for batch in run.events.batches():
            if any(isinstance(event, RunOutput) and event.delta for event in batch):
                break
        run.leave()
        await run.finished()
    call = next(call for call in model_server.calls_of(model) if call.question == "leave")
    assert await asyncio.to_thread(call.over.wait, 10)
    assert call.ended == "left"


async def test_a_slow_reader_slows_the_run(tmp_path: Path) -> None:
    code = """
    made = []

    async def invoke():
        for number in range(5000):
            made.append(number)
            yield "x"
    """
    async with service_of(write_flow(tmp_path, ONE_NODE, {"node.py": code})) as service:
        run = await service.start(RunRequest({}, SESSION))
        await asyncio.sleep(0.3)
        batches = run.events.batches()
        first = await anext(batches)
        assert len(first) < 300, "the run did not wait for its reader"
        deltas = sum(isinstance(event, RunOutput) for event in first)
        async for batch in batches:
            deltas += sum(isinstance(event, RunOutput) for event in batch)
    assert deltas == 5003


async def test_beyond_the_limit_nothing_runs(tmp_path: Path) -> None:
    async with service_of(write_flow(tmp_path, ONE_NODE, {"node.py": ASYNC_SLEEP}), max_runs=1) as service:
        run = await service.start(RunRequest({}, SESSION))
        with pytest.raises(TooManyRuns, match="1 runs are in progress"):
            await service.start(RunRequest({}, SESSION))
        run.cancel("make room")
        await run.finished()
        again = await service.start(RunRequest({}, SESSION))
        again.cancel("done")
        await again.finished()


async def test_a_closing_service_takes_nothing_and_cancels_after_its_grace(tmp_path: Path) -> None:
    async with service_of(write_flow(tmp_path, ONE_NODE, {"node.py": ASYNC_SLEEP})) as service:
        run = await service.start(RunRequest({}, SESSION))
        await service.finish(grace_s=0.1)
        events = [event async for batch in run.events.batches() for event in batch]
        assert event_lines(events)[-2:] == ["node Canceled", "terminated Canceled"]
        with pytest.raises(Unavailable, match="shutting down"):
            await service.start(RunRequest({}, SESSION))


@pytest.mark.parametrize(
    ("inputs", "message", "param"),
    [
        ({}, "input 'n' is missing", "n"),
        ({"n": 1, "m": 2}, "the flow has no input 'm'; its inputs: n, flag", "m"),
        ({"n": "many"}, "input 'n': expected an integer, got 'many'", "n"),
        ({"n": 1, "flag": "yes"}, "input 'flag': expected true or false, got 'yes'", "flag"),
    ],
)
async def test_inputs_are_checked_at_once(tmp_path: Path, inputs: dict[str, object], message: str, param: str) -> None:
    dag = """
    inputs:
      n: {type: int}
      flag: {type: bool, default: false}
    outputs:
      out: {type: int, reference: "${inputs.n}"}
    nodes:
    - {name: node, type: python, source: {path: node.py}}
    """
    async with service_of(write_flow(tmp_path, dag, {"node.py": ASYNC_SLEEP})) as service:
        with pytest.raises(InvalidRequest) as caught:
            await service.start(RunRequest(inputs, SESSION))
    assert (caught.value.message, caught.value.param) == (message, param)


async def test_sync_nodes_do_not_block_the_event_loop(tmp_path: Path) -> None:
    flow = write_flow(tmp_path, ONE_NODE, {"node.py": THREAD_SLEEP.replace("time.sleep(3)", "time.sleep(0.3)")})
    async with service_of(flow) as service:
        run = await service.start(RunRequest({}, SESSION))
        ticks = 0
        while not any(thread.name == "flowpod-node" for thread in threading.enumerate()):
            await asyncio.sleep(0)
        begun = time.monotonic()
        while time.monotonic() - begun < 0.2:
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 5
        events = [event async for batch in run.events.batches() for event in batch]
    completed = [event for event in events if isinstance(event, NodeUpdated) and event.status == "Completed"]
    assert len(completed) == 1
    assert completed[0].duration >= 0.3


async def test_sixteen_nodes_of_a_run_run_at_once(tmp_path: Path) -> None:
    code = """
    import asyncio

    running = []
    most = []

    async def invoke():
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0.02)
        running.pop()
        return max(most)
    """
    nodes = "\n".join(f"- {{name: n{number}, type: python, source: {{path: node.py}}}}" for number in range(40))
    flow = write_flow(
        tmp_path, "outputs:\n  out: {type: int, reference: '${n39.output}'}\nnodes:\n" + nodes, {"node.py": code}
    )
    events = event_lines(await run_flow(flow, {}))
    assert "out whole 16 Finished" in events
    assert sum(line.endswith("Completed") for line in events) == 41
