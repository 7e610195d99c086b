"""The tables that say most, by name: the comparison, the goals, and what each part of a request costs."""

from collections.abc import Iterable, Sequence
from typing import Any

from tests.bench import ablation
from tests.bench.goals import HEAD, LEVEL, goals

_COMPARED = (
    "server",
    "streamed, requests/s",
    "CPU ms",
    "JSON, requests/s",
    "CPU ms",
    "first text with one request, ms",
    "first answer after s",
    "idle MB",
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Return each table that `found`, the contents of the result files by name, has rows for."""
    rows: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = {
        "comparison": (_COMPARED, _comparison(found["speed"]) if "speed" in found else []),
        "goals": (HEAD, [goal.row() for goal in goals(found)]),
        "ablation": (ablation.HEAD, ablation.rows(found)),
    }
    return {name: table(head, lines) for name, (head, lines) in rows.items() if lines}


def _comparison(speed: dict[str, Any]) -> list[list[str]]:
    cells = {(c["server"], c["endpoint"], c["mode"], c["concurrency"]): c for c in speed["cells"] if c["chunks"] == 64}
    rows = []
    for server, endpoint in dict.fromkeys(key[:2] for key in cells if key[0] != "model"):
        kinds = ("stream", LEVEL), ("whole", LEVEL), ("stream", 1)
        streamed, whole, first = (cells.get((server, endpoint, *kind)) for kind in kinds)
        if streamed and whole and first:
            numbers = speed["servers"][server]
            rows.append(
                [
                    f"{server} `{endpoint}`",
                    *(
                        text
                        for cell in (streamed, whole)
                        for text in (f"{cell['per_s']:,.0f}", f"{cell['cpu_ms']:.2f}")
                    ),
                    f"{first['first_p50_ms']:.2f}",
                    f"{numbers['cold_s']:.2f}",
                    f"{numbers['idle_bytes'] / 1e6:.0f}",
                ]
            )
    return rows
