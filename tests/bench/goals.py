"""What Flowpod, with history and tracing on, has to reach, against what was measured."""

from collections.abc import Iterator
from typing import Any, Literal

_PEERS = ("hayhooks", "promptflow", "llama-agents", "bentoml")
_Row = tuple[str, str, str, str]


def goals(found: dict[str, Any]) -> list[_Row]:
    """Return what, the goal, what was measured and whether it was reached, of all that `found` has numbers for."""
    rows: list[_Row] = []
    if "speed" in found:
        rows += _of_speed(found["speed"])
    if "idle" in found:
        idle = found["idle"]
        what = f"memory of each of {idle['open']} silent streams, kB"
        rows.append(_row(what, "at most", 120, idle["bytes_per_stream"] / 1e3))
    for flow in found.get("engine", ()):
        if flow["nodes"] == 50:
            rows.append(_row("engine, a run of 50 nodes, ms", "at most", 3, flow["recorded_ms"] - flow["plain_ms"]))
    if "endurance" in found:
        grown = found["endurance"]["bytes_per_1000_runs"] / 1e3
        rows.append(("memory that 1,000 runs add, kB", "flat", f"{grown:.1f}", ""))
    return rows


def _of_speed(speed: dict[str, Any]) -> Iterator[_Row]:
    cells = {(c["server"], c["endpoint"], c["mode"], c["concurrency"]): c for c in speed["cells"]}

    def text(server: str, endpoint: str, mode: str) -> float:
        cell = cells.get((server, endpoint, mode, 16))
        return float(cell["text_per_s"]) if cell else 0.0

    for mode, least in (("stream", 8), ("whole", 4)):
        peer, most = max(((name, text(name, "/", mode)) for name in _PEERS), key=lambda found: found[1])
        if most and (ours := text("flowpod", "/", mode)):
            yield _row(f"{mode}, 16 at once, `/`, times the fastest peer ({peer})", "at least", least, ours / most)
    if limit := text("limit", "/", "stream"):
        for endpoint, share in (("/", 0.9), ("/v1", 0.9), ("/run", 0.7)):
            if ours := text("flowpod", endpoint, "stream"):
                yield _row(f"stream, 16 at once, `{endpoint}`, times the limit", "at least", share, ours / limit)
    firsts = [cells.get((server, "/", "stream", 1)) for server in ("flowpod", "limit")]
    if firsts[0] and firsts[1]:
        ratio = firsts[0]["first_p50_ms"] / firsts[1]["first_p50_ms"]
        yield _row("first text at 1, times the limit's", "at most", 2, ratio)
    facts = speed["servers"].get("flowpod", {})
    if "paced_ratio" in facts:
        yield _row("64 paced streams, times the model's own time", "at most", 1.05, facts["paced_ratio"])
    if facts:
        yield _row("first answer after the command, s", "at most", 1.8, facts["cold_s"])
        yield _row("idle memory, MB", "at most", 120, facts["idle_bytes"] / 1e6)


def _row(what: str, kind: Literal["at least", "at most"], goal: float, measured: float) -> _Row:
    reached = measured >= goal if kind == "at least" else measured <= goal
    return what, f"{kind} {goal:g}", f"{measured:.2f}", "reached" if reached else "missed"
