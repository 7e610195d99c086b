"""What Flowpod, with history and tracing on, has to reach, against what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

_PEERS = ("hayhooks", "promptflow", "llama-agents", "bentoml")
_LEVEL = 16
_Cells = dict[tuple[str, str, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured; `by_cpu` is the same ratio of the servers' CPU time, which noise disturbs least."""

    what: str
    kind: Literal["at least", "at most"]
    goal: float
    measured: float
    by_cpu: float | None = None

    @property
    def reached(self) -> bool:
        return self.measured >= self.goal if self.kind == "at least" else self.measured <= self.goal

    def row(self) -> tuple[str, str, str, str, str]:
        """Return what, the goal, what was measured, the same by CPU time, and whether the goal was reached."""
        by_cpu = "" if self.by_cpu is None else f"{self.by_cpu:.2f}"
        verdict = "reached" if self.reached else "missed"
        return self.what, f"{self.kind} {self.goal:g}", f"{self.measured:.2f}", by_cpu, verdict


HEAD = ("what", "goal", "measured", "by CPU time", "")


def goals(found: dict[str, Any]) -> list[Goal]:
    """Return every goal that `found`, the contents of the result files by name, has numbers for."""
    rows: list[Goal] = []
    if "speed" in found:
        rows += _of_speed(found["speed"])
    if "idle" in found:
        idle = found["idle"]
        rows.append(Goal("silent streams open at once", "at least", 2000, idle["open"]))
        rows.append(Goal(f"each of {idle['open']} silent streams, kB", "at most", 120, idle["bytes_per_stream"] / 1e3))
    for flow in found.get("engine", ()):
        if flow["nodes"] == 50:
            rows.append(Goal("the engine, a run of 50 nodes, ms", "at most", 3, flow["recorded_ms"] - flow["plain_ms"]))
    return rows


def _of_speed(speed: dict[str, Any]) -> Iterator[Goal]:
    cells: _Cells = {(c["server"], c["endpoint"], c["mode"], c["concurrency"]): c for c in speed["cells"]}
    for mode, least in (("stream", 8), ("whole", 4)):
        peers = [cell for peer in _PEERS if (cell := cells.get((peer, "/", mode, _LEVEL)))]
        ours = cells.get(("flowpod", "/", mode, _LEVEL))
        if peers and ours:
            fastest = max(peers, key=lambda cell: float(cell["text_per_s"]))
            yield _ratio(f"{mode}, 16 at once, `/`, times {fastest['server']}, the fastest peer", least, ours, fastest)
    for endpoint, least_share in (("/", 0.9), ("/v1", 0.9), ("/run", 0.7)):
        ours, limit = (cells.get((name, at, "stream", _LEVEL)) for name, at in (("flowpod", endpoint), ("limit", "/")))
        if ours and limit:
            yield _ratio(f"stream, 16 at once, `{endpoint}`, times the limit", least_share, ours, limit)
    ours, limit = (cells.get((name, "/", "stream", 1)) for name in ("flowpod", "limit"))
    if ours and limit:
        yield Goal(
            "first text at 1 at once, times the limit's", "at most", 2, ours["first_p50_ms"] / limit["first_p50_ms"]
        )
    if numbers := speed["servers"].get("flowpod"):
        if "paced_ratio" in numbers:
            yield Goal("64 paced streams, times the model's own time", "at most", 1.05, numbers["paced_ratio"])
        yield Goal("first answer after the command, s", "at most", 1.8, numbers["cold_s"])
        yield Goal("idle memory, MB", "at most", 120, numbers["idle_bytes"] / 1e6)


def _ratio(what: str, least: float, ours: dict[str, Any], other: dict[str, Any]) -> Goal:
    by_cpu = other["cpu_ms"] / ours["cpu_ms"]
    return Goal(what, "at least", least, ours["text_per_s"] / other["text_per_s"], by_cpu)
