"""What history, traces and metrics cost a request: CPU time with each of them off, against all on."""

from typing import Any

from tests.bench.goals import LEVEL
from tests.bench.telemetry import MEASUREMENTS

_SERVERS = {
    "flowpod": "all on",
    "flowpod-no-history": "without history",
    "flowpod-no-tracing": "without traces",
    "flowpod-off": "without both",
}
HEAD = ("CPU ms a request", "streamed", "saved", "JSON", "saved")


def rows(found: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return the rows of the table, those that `found`, the contents of the result files by name, has numbers for.

    No setting turns metrics off: what they cost is measured inside one process, by `tests.bench.telemetry`.
    """
    cells: dict[tuple[str, str], float] = {
        (cell["server"], cell["mode"]): cell["cpu_ms"]
        for cell in found.get("speed", {"cells": ()})["cells"]
        if cell["endpoint"] == "/" and cell["concurrency"] == LEVEL and cell.get("chunks", 64) == 64
    }
    lines = [
        (what, *_cost(cells, server, "stream"), *_cost(cells, server, "whole"))
        for server, what in _SERVERS.items()
        if {(server, "stream"), (server, "whole"), ("flowpod", "stream"), ("flowpod", "whole")} <= cells.keys()
    ]
    watched = {row["watched"]: row["cpu_ms"] for row in found.get("telemetry", ())}
    if lines and MEASUREMENTS in watched:
        metrics = f"{watched[MEASUREMENTS]:.3f}"
        lines.append(("the metrics of one run, inside a process", "", metrics, "", metrics))
    return lines


def _cost(cells: dict[tuple[str, str], float], server: str, mode: str) -> tuple[str, str]:
    cost, saved = cells[server, mode], cells["flowpod", mode] - cells[server, mode]
    return f"{cost:.2f}", "" if server == "flowpod" else f"{saved:.2f}"
