"""What the engine itself costs: flows of trivial nodes against plain awaits of the same function.

    python -m tests.bench.engine

prints milliseconds of CPU time a run, the median of several: the functions alone, the flow without tracing, and the flow with spans
that are recorded. The difference, divided by the nodes, is the engine's own cost.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from flowpod.compat import stand_ins
from flowpod.engine.request import RunRequest
from flowpod.service import FlowService
from flowpod.serving.server import collect_rarely
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.tracing import Tracing
from tests.bench.results import keep, options
from tests.support.flows import SESSION, service_of, write_flow

ROUNDS, RUNS = 7, 50
CHAIN, FAN = 50, 200
CODE = "from promptflow.core import tool\n\n@tool\nasync def add(n: int = 0) -> int:\n    return n + 1\n"


def chain(folder: Path) -> Path:
    nodes = ["- {name: n0, type: python, source: {path: add.py}}"]
    for number in range(1, CHAIN):
        inputs = f'{{n: "${{n{number - 1}.output}}"}}'
        nodes.append(f"- {{name: n{number}, type: python, source: {{path: add.py}}, inputs: {inputs}}}")
    return _flow(folder, nodes, f"n{CHAIN - 1}")


def fan(folder: Path) -> Path:
    nodes = [f"- {{name: n{number}, type: python, source: {{path: add.py}}}}" for number in range(FAN)]
    return _flow(folder, nodes, f"n{FAN - 1}")


def _flow(folder: Path, nodes: list[str], last: str) -> Path:
    outputs = f'outputs:\n  out: {{type: int, reference: "${{{last}.output}}"}}\nnodes:\n'
    return write_flow(folder, outputs + "\n".join(nodes) + "\n", {"add.py": CODE})


async def add(n: int = 0) -> int:
    return n + 1


async def plain_chain() -> None:
    value = 0
    for _ in range(CHAIN):
        value = await add(value)


async def plain_fan() -> None:
    await asyncio.gather(*(add() for _ in range(FAN)))


async def run_flow(service: FlowService) -> None:
    run = await service.start(RunRequest({}, SESSION))
    async for batch in run.events.batches():
        last = batch[-1]
    assert getattr(last, "status", "") == "Completed"
    await run.finished()


async def milliseconds(call: Callable[[], Awaitable[None]]) -> float:
    """Return the median over rounds of the mean CPU time of a call."""
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(RUNS):
            await call()
        times.append((time.process_time() - begun) / RUNS * 1000)
    return statistics.median(times)


async def measure() -> list[dict[str, Any]]:
    """Print the costs, and return them."""
    stand_ins.install()
    collect_rarely()  # as the served process does
    rows: list[dict[str, Any]] = []
    print(f"{'CPU ms a run':24}{'plain':>10}{'flow':>10}{'recorded':>10}{'us a node':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for name, make, plain, count in (
            (f"chain of {CHAIN}", chain, plain_chain, CHAIN),
            (f"fan-out of {FAN}", fan, plain_fan, FAN),
        ):
            flow = make(Path(folder) / name.replace(" ", "_"))
            alone = await milliseconds(plain)
            async with service_of(flow, tracing=Tracing(None)) as service:
                bare = await milliseconds(lambda service=service: run_flow(service))  # type: ignore[misc]
            async with service_of(flow, tracing=Tracing(SpanProvider())) as service:
                traced = await milliseconds(lambda service=service: run_flow(service))  # type: ignore[misc]
            print(f"{name:24}{alone:10.3f}{bare:10.3f}{traced:10.3f}{(bare - alone) / count * 1000:11.1f}")
            rows.append({"flow": name, "nodes": count, "plain_ms": alone, "flow_ms": bare, "recorded_ms": traced})
    return rows


def main() -> None:
    chosen = options("Measure what the engine itself costs.")
    rows = uvloop.run(measure())  # the loop of the served process
    keep(chosen.results, "engine.json", rows)


if __name__ == "__main__":
    main()
