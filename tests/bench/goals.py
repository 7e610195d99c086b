"""What Flowpod, with history, traces and metrics on, has to reach, against what was measured.

A comparison with another server is made by requests a second and by CPU time, and a goal is met when both reach it: the
client and the model share a core, so that near its limit requests a second say too little about a fast server.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tests.bench.peers.servers import PEERS

LEVEL = 16
"""The number of requests at once that servers are compared at."""
_CHUNKS = 64
_Cells = dict[tuple[str, str, str, int, int], dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured; `by_cpu` is the same ratio of the servers' CPU time, where there is one."""

    what: str
    kind: Literal["at least", "at most"]
    goal: float
    measured: float
    by_cpu: float | None = None

    @property
    def met(self) -> bool:
        values = [self.measured] if self.by_cpu is None else [self.measured, self.by_cpu]
        return all(value >= self.goal if self.kind == "at least" else value <= self.goal for value in values)

    @property
    def result(self) -> Literal["met", "missed"]:
        return "met" if self.met else "missed"

    def row(self) -> tuple[str, str, str, str, str]:
        """Return what, the goal, what was measured, the same by CPU time, and whether the goal was met."""
        by_cpu = "" if self.by_cpu is None else f"{self.by_cpu:.2f}"
        return self.what, f"{self.kind} {self.goal:,g}", _number(self.measured), by_cpu, self.result


HEAD = ("goal", "", "measured", "by CPU time", "result")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def goals(found: dict[str, Any]) -> list[Goal]:
    """Return every goal that `found`, the contents of the result files by name, has numbers for."""
    rows: list[Goal] = []
    if "speed" in found:
        rows += _of_speed(found["speed"])
    if burst := found.get("burst"):
        what = f"of {burst['streams']:,} streams at once, those that ended well"
        rows.append(Goal(what, "at least", burst["streams"], burst["ended_well"]))
    if size := found.get("large_input"):
        what = f"CPU time of a request with an input of {size['bytes'] / 1e6:g} MB, ms"
        rows.append(Goal(what, "at most", 15, size["cpu_ms"]))
    if idle := found.get("idle"):
        rows.append(Goal("silent streams open at once", "at least", 2000, idle["open"]))
        rows.append(Goal(f"each of {idle['open']:,} silent streams, kB", "at most", 90, idle["bytes_per_stream"] / 1e3))
    for flow in found.get("engine", ()):
        if flow["nodes"] == 50:
            rows.append(Goal("a chain of 50 nodes, with spans, ms", "at most", 2.5, flow["recorded_ms"]))
    return rows


def _of_speed(speed: dict[str, Any]) -> Iterator[Goal]:
    cells: _Cells = {
        (c["server"], c["endpoint"], c["mode"], c["concurrency"], c.get("chunks", _CHUNKS)): c for c in speed["cells"]
    }
    for endpoint, share in (("/", 0.9), ("/v1", 0.9), ("/run", 0.7)):
        yield from _of_the_limit(cells, endpoint, _CHUNKS, share)
    for chunks, share in ((10, 0.5), (1000, 1.5)):
        yield from _of_the_limit(cells, "/", chunks, share)
    for mode, name, times in (("stream", "streamed", 8), ("whole", "JSON", 4)):
        found = (cells.get((peer.name, "/", mode, LEVEL, _CHUNKS)) for peer in PEERS)
        peers = [cell for cell in found if cell]
        ours = cells.get(("flowpod", "/", mode, LEVEL, _CHUNKS))
        if peers and ours:
            fastest = max(peers, key=lambda cell: float(cell["per_s"]))
            yield _ratio(f"{name}, `/`, times {fastest['server']}, the fastest peer", times, ours, fastest)
    ours, limit = (cells.get((name, "/", "stream", 1, _CHUNKS)) for name in ("flowpod", "limit"))
    if ours and limit:
        first = ours["first_p50_ms"] / limit["first_p50_ms"]
        yield Goal("first text with one request, times the limit's", "at most", 1.5, first)
    if numbers := speed["servers"].get("flowpod"):
        if "paced_ratio" in numbers:
            yield Goal("64 paced streams, times the model's own time", "at most", 1.06, numbers["paced_ratio"])
        yield Goal("first answer after the command, s", "at most", 1.0, numbers["cold_s"])
        yield Goal("memory after the first answer, MB", "at most", 100, numbers["idle_bytes"] / 1e6)


def _of_the_limit(cells: _Cells, endpoint: str, chunks: int, share: float) -> Iterator[Goal]:
    ours = cells.get(("flowpod", endpoint, "stream", LEVEL, chunks))
    limit = cells.get(("limit", "/", "stream", LEVEL, chunks))
    if ours and limit:
        yield _ratio(f"streamed in {chunks:,} chunks, `{endpoint}`, times the limit", share, ours, limit)


def _ratio(what: str, least: float, ours: dict[str, Any], other: dict[str, Any]) -> Goal:
    return Goal(what, "at least", least, ours["per_s"] / other["per_s"], other["cpu_ms"] / ours["cpu_ms"])
