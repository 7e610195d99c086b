"""The report of what was measured: one page of tables, and the plot.

    python -m tests.bench.report tests/bench/results

reads the `.json` files in the folder, those that are there, and writes `results.md` and `speed.svg` beside them.
"""

import argparse
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.bench.goals import HEAD, goals
from tests.bench.peers.servers import program
from tests.support.serving import ROOT

_MODES = {"stream": "Streaming", "whole": "In one piece"}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def speed_page(speed: dict[str, Any]) -> str:
    """Return the tables of speed."""
    machine = speed["machine"]
    how = "a core of its own for the server" if machine["pinned"] else "one core for everything"
    taken = f"medians of {speed['rounds']} rounds of {speed['seconds']:g} s"
    where = f"{machine['processor']}, {machine['system']}, Python {machine['python']}; {how}; {taken}."
    lines = ["## Speed\n", f"{where} An answer has 64 chunks, and the model does not pause.\n"]
    levels = sorted({cell["concurrency"] for cell in speed["cells"]})
    for mode, title in _MODES.items():
        cells = [cell for cell in speed["cells"] if cell["mode"] == mode]
        if cells:
            lines += [
                f"### {title}\n",
                "At " + ", ".join(map(str, levels)) + " requests at once.\n",
                _cells(cells, levels),
            ]
    return "\n".join([*lines, "### Start and memory\n", _servers(speed)])


def _cells(cells: list[dict[str, Any]], levels: list[int]) -> str:
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "requests/s": lambda cell: f"{cell['per_s']:.0f}",
        "p50 ms": lambda cell: _milliseconds(cell["p50_ms"]),
        "p99 ms": lambda cell: _milliseconds(cell["p99_ms"]),
        "first text p50 ms": lambda cell: _milliseconds(cell["first_p50_ms"]),
        "first text p99 ms": lambda cell: _milliseconds(cell["first_p99_ms"]),
        "CPU ms a request": lambda cell: f"{cell['cpu_ms']:.2f}",
    }
    if cells[0]["mode"] == "whole":
        columns = {name: show for name, show in columns.items() if not name.startswith("first")}
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["server"], cell["endpoint"]), {})[cell["concurrency"]] = cell
    rows = [
        [
            f"{server} `{endpoint}`",
            *(" / ".join(show(at[level]) for level in levels if level in at) for show in columns.values()),
        ]
        for (server, endpoint), at in found.items()
    ]
    return table(["server", *columns], rows)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _servers(speed: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{numbers['cold_s']:.2f}",
            f"{numbers['idle_bytes'] / 1e6:.0f}",
            f"{numbers['paced_ratio']:.2f}" if "paced_ratio" in numbers else "",
            f"{numbers['bytes_per_stream'] / 1e3:.0f} ({numbers['held_streams']})" if "held_streams" in numbers else "",
        ]
        for name, numbers in speed["servers"].items()
    ]
    head = [
        "server",
        "first answer after s",
        "idle MB",
        "64 paced streams, times the model's own",
        "kB an open stream (how many)",
    ]
    return table(head, rows)


def idle_page(idle: dict[str, Any]) -> str:
    """Return what is said of silent streams."""
    size = idle["bytes_per_stream"] / 1e3
    return f"## Silent streams\n\n{idle['open']} of {idle['streams']} were open at once, {size:.0f} kB each; all ended well.\n"


def imports_page(imports: dict[str, Any]) -> str:
    """Return the table of imports, those that take a hundredth of the whole."""
    packages = imports["packages"]
    whole_s, whole = sum(package["seconds"] for package in packages), imports["memory_bytes"]
    shown = [p for p in packages if p["seconds"] > whole_s / 100 or p["memory_bytes"] > whole / 100]
    rows = [[p["package"], p["modules"], f"{p['seconds']:.3f}", f"{p['memory_bytes'] / 1e6:.1f}"] for p in shown]
    rows.append(
        ["all, with the interpreter", sum(p["modules"] for p in packages), f"{whole_s:.3f}", f"{whole / 1e6:.1f}"]
    )
    return "## Imports at a cold start\n\n" + table(["package", "modules", "s", "MB"], rows)


def engine_page(engine: list[dict[str, Any]]) -> str:
    """Return the table of the engine's own cost."""
    rows = [[r["flow"], f"{r['plain_ms']:.3f}", f"{r['flow_ms']:.2f}", f"{r['recorded_ms']:.2f}"] for r in engine]
    return "## The engine, in ms a run\n\n" + table(["flow", "functions alone", "flow", "with spans"], rows)


def profile_page(profile: dict[str, Any]) -> str:
    """Return the table of where the time of a streamed run goes."""
    whole = profile["cpu_us"]
    rows = [[part, f"{spent:.0f}", f"{spent / whole:.0%}"] for part, spent in profile["parts"].items()]
    rows.append(["all", f"{whole:.0f}", ""])
    text = f"By {profile['samples']} samples, `/` asked 16 at once, history and tracing on.\n"
    return f"## One streamed run, in microseconds\n\n{text}\n" + table(["part", "us", ""], rows)


def endurance_page(endurance: dict[str, Any]) -> str:
    """Return the table of memory over many runs."""
    points = endurance["points"]
    last = len(points) - 1
    shown = [points[number] for number in sorted({round(tenth * last / 10) for tenth in range(11)})]
    rows = [[point["runs"], f"{point['rss_bytes'] / 1e6:.1f}"] for point in shown]
    text = f"In the second half, 1,000 runs added {endurance['bytes_per_1000_runs'] / 1e3:.1f} kB.\n"
    return f"## Memory over many runs\n\n{table(['runs', 'MB'], rows)}\n{text}"


PAGES: dict[str, Callable[[Any], str]] = {
    "speed": speed_page,
    "idle": idle_page,
    "engine": engine_page,
    "imports": imports_page,
    "profile": profile_page,
    "endurance": endurance_page,
}


def write(folder: Path) -> Path:
    """Write the page from the numbers in `folder`, and return its path."""
    found = {name: orjson.loads(path.read_bytes()) for name in PAGES if (path := folder / f"{name}.json").exists()}
    parts = ["# Benchmark\n"]
    if rows := goals(found):
        parts.append("## Goals\n\n" + table(HEAD, [goal.row() for goal in rows]))
    if "speed" in found:
        parts.append("![requests a second](speed.svg)\n")
    page = folder / "results.md"
    page.write_text("\n".join([*parts, *(PAGES[name](content) for name, content in found.items())]))
    return page


def main() -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description="Write the report of a benchmark.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(write(folder))
    plot = [program("plot", "python"), "tests/bench/plot.py", str(folder / "speed.json"), str(folder / "speed.svg")]
    subprocess.run(plot, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
