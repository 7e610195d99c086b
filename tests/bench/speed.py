"""Speed of Flowpod, its limits and its peers, measured in turns.

    python -m tests.bench.speed --servers flowpod,limit --concurrency 16 --seconds 3

Each round visits every server once: it is started on a core of its own, asked at every level, and ended; the mock model
and the client share another core. What is shown are the medians of the rounds. `make bench` measures everything.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.bench.goals import LEVEL
from tests.bench.load import Load
from tests.bench.process import Cores, raise_file_limit
from tests.bench.question import Question
from tests.bench.results import machine, write_json
from tests.bench.server import Mode, Server, openai_ask
from tests.bench.servers import SERVERS
from tests.bench.summary import tables
from tests.bench.visit import Cell, Sample, Start, Started, model, run_client, started

LEVELS = (1, 16, 64, 256)
LENGTHS = (10, 1000)
COMPARED_LENGTHS = ("flowpod", "limit")
MODES: tuple[Mode, ...] = ("stream", "whole")
MODEL = "model"
PACED, PACED_STREAMS = Question(chunks=64, pause_s=0.01), 64
HELD_STREAMS, HELD_S = 128, 6.0


@dataclass(frozen=True)
class Plan:
    """What is measured: each of `servers` at each of `levels` for so many seconds, in so many rounds.

    With `streams` also what paced streams take, and the memory of silent ones. With `lengths` also streams of so many
    chunks, of Flowpod and the limit, at one level.
    """

    servers: Sequence[Server]
    levels: Sequence[int] = LEVELS
    modes: Sequence[Mode] = MODES
    endpoints: Sequence[str] = ()
    seconds: float = 2.0
    rounds: int = 1
    streams: bool = False
    lengths: Sequence[int] = ()


@dataclass
class Numbers:
    """All that was measured, with a number for each round.

    `paced` are seconds of PACED_STREAMS at once of the PACED answer; "model" is the model's own. `held` says how many
    silent streams were open at once, and the bytes that each took; `failures` what went wrong.
    """

    samples: defaultdict[Cell, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    starts: defaultdict[str, list[Start]] = field(default_factory=lambda: defaultdict(list))
    paced: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    held: dict[str, tuple[int, float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def medians(self) -> dict[Cell, Sample]:
        """Return each cell's medians."""
        names = [f.name for f in fields(Sample)]
        return {
            cell: Sample(*(statistics.median(getattr(sample, name) for sample in samples) for name in names))
            for cell, samples in self.samples.items()
        }

    def content(self) -> dict[str, Any]:
        """Return the medians as JSON has them."""
        own = statistics.median(self.paced[MODEL]) if self.paced else None
        servers = {}
        for name, starts in self.starts.items():
            facts: dict[str, float] = {
                "cold_s": statistics.median(start.cold_s for start in starts),
                "idle_bytes": statistics.median(start.idle_bytes for start in starts),
            }
            if own and name in self.paced:
                facts["paced_ratio"] = statistics.median(self.paced[name]) / own
            if name in self.held:
                facts["held_streams"], facts["bytes_per_stream"] = self.held[name]
            servers[name] = facts
        samples = [{**asdict(cell), **asdict(sample)} for cell, sample in self.medians().items()]
        return {"machine": machine(), "paced_model_s": own, "servers": servers, "cells": samples}


def measure(plan: Plan) -> Numbers:
    """Do what the plan says; a server that fails is reported, and the others go on."""
    raise_file_limit()
    cores, numbers = Cores.of_this_machine(), Numbers()
    with tempfile.TemporaryDirectory() as name, model(cores, Path(name)) as mock:
        for number in range(plan.rounds):
            if plan.streams:
                numbers.paced[MODEL].append(_own_paced_s(mock.url, cores))
            for server in plan.servers:
                try:
                    with started(server, mock, cores, Path(name) / f"{server.name}-{number}") as visited:
                        _visit(visited, plan, numbers)
                except AssertionError as error:
                    numbers.failures.append(f"{server.name}: {error}")
                    print(f"failed: {numbers.failures[-1]}", file=sys.stderr, flush=True)
    return numbers


def _visit(visited: Started, plan: Plan, numbers: Numbers) -> None:
    name, todo = visited.server.name, cells(visited.server, plan)
    numbers.starts[name].append(visited.start)
    visited.warm_up(dict.fromkeys((cell.endpoint, cell.mode) for cell in todo))
    for cell in todo:
        sample = visited.sample(cell, plan.seconds)
        numbers.samples[cell].append(sample)
        print(_line(cell, sample), file=sys.stderr, flush=True)
    if plan.streams and name != MODEL:
        numbers.paced[name].append(visited.paced_s(PACED_STREAMS, PACED))
        if name not in numbers.held:
            numbers.held[name] = visited.bytes_per_stream(HELD_STREAMS, HELD_S)


def _own_paced_s(model_url: str, cores: Cores) -> float:
    ask = openai_ask(str(PACED), "stream")
    result = run_client(Load(model_url.removesuffix("/v1"), ask, PACED.answer, PACED_STREAMS), cores)
    assert not result.errors, result.errors[0]
    return result.seconds


def cells(server: Server, plan: Plan) -> list[Cell]:
    """Return what is measured of a server."""
    lengths = plan.lengths if server.name in COMPARED_LENGTHS and "stream" in plan.modes else ()
    return [
        Cell(server.name, endpoint, mode, level)
        for endpoint in server.endpoints
        if not plan.endpoints or endpoint in plan.endpoints or len(server.endpoints) == 1
        for mode in plan.modes
        for level in plan.levels
    ] + [Cell(server.name, server.endpoints[0], "stream", LEVEL, chunks) for chunks in lengths]


HEAD = (
    f"{'server':19}{'endpoint':9}{'mode':7}{'at once':>7}{'chunks':>7}{'req/s':>9}{'text kB/s':>10}"
    f"{'p50 ms':>9}{'p99 ms':>9}{'first p50':>10}{'first p99':>10}{'CPU ms':>8}{'others':>7}"
)


def _line(cell: Cell, sample: Sample) -> str:
    return (
        f"{cell.server:19}{cell.endpoint:9}{cell.mode:7}{cell.concurrency:7}{cell.chunks:7}{sample.per_s:9.1f}"
        f"{sample.text_per_s / 1000:10.1f}{sample.p50_ms:9.2f}{sample.p99_ms:9.2f}{sample.first_p50_ms:10.2f}"
        f"{sample.first_p99_ms:10.2f}{sample.cpu_ms:8.3f}{sample.others_cpu:7.0%}"
    )


def show(numbers: Numbers) -> None:
    """Print the medians, the goals that they belong to, and what each part costs."""
    print(HEAD)
    for cell, sample in numbers.medians().items():
        print(_line(cell, sample))
    content = numbers.content()
    for name, facts in content["servers"].items():
        line = f"{name:19} first answer {facts['cold_s']:5.2f} s after the command, then {facts['idle_bytes'] / 1e6:4.0f} MB"
        if "paced_ratio" in facts:
            line += f"; paced streams take {facts['paced_ratio']:.2f} times the model's own time"
        if "held_streams" in facts:
            line += f"; {facts['held_streams']} silent streams, {facts['bytes_per_stream'] / 1000:.0f} kB each"
        print(line)
    for name, text in tables({"speed": content}).items():
        if name != "comparison":  # the lines above have the same numbers
            print(f"\n{name}\n\n{text}", end="")


def main() -> int:
    """Measure what the command line names; return the exit status, 1 when a server failed."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else "", epilog=f"servers: {', '.join(SERVERS)}"
    )
    parser.add_argument("--servers", default=",".join(SERVERS), help="names, separated by commas (default %(default)s)")
    parser.add_argument("--concurrency", default=",".join(map(str, LEVELS)), help="levels (default %(default)s)")
    parser.add_argument("--modes", default=",".join(MODES), help="stream, whole or both (default both)")
    parser.add_argument("--endpoints", default="", help="such as /,/run,/v1 (default all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each level is asked (default 2)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each server is visited (default 1)")
    parser.add_argument("--streams", action="store_true", help="also measure paced streams and silent ones")
    parser.add_argument("--lengths", action="store_true", help="also measure short and long streams")
    parser.add_argument("--results", type=Path, help="a folder for speed.json")
    options = parser.parse_args()
    plan = Plan(
        servers=[SERVERS[name] for name in options.servers.split(",")],
        levels=[int(level) for level in options.concurrency.split(",")],
        modes=[mode for mode in MODES if mode in options.modes.split(",")],
        endpoints=[endpoint for endpoint in options.endpoints.split(",") if endpoint],
        seconds=options.seconds,
        rounds=options.rounds,
        streams=options.streams,
        lengths=LENGTHS if options.lengths else (),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    begun = time.monotonic()
    numbers = measure(plan)
    show(numbers)
    if options.results:
        how = {"seconds": plan.seconds, "rounds": plan.rounds}
        write_json(options.results / "speed.json", how | numbers.content())
    print(f"{time.monotonic() - begun:.0f} s in all", file=sys.stderr)
    for failure in numbers.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if numbers.failures else 0


if __name__ == "__main__":
    sys.exit(main())
