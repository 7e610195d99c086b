"""The report of what was measured: one page of tables, and the plot.

    python -m tests.bench.report tests/bench/results --docs docs/performance.md

reads the `.json` files in the folder, those that are there, and writes `results.md`, `goals.json` and `speed.svg` beside
them. In the page of the documentation it replaces the tables between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import argparse
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from tests.bench.goals import goals
from tests.bench.peers.servers import program
from tests.bench.question import Question
from tests.bench.results import write_json
from tests.bench.summary import table, tables
from tests.support.serving import ROOT

_MODES = {"stream": "Streaming", "whole": "In one piece"}


def speed_page(speed: dict[str, Any]) -> str:
    """Return the tables of speed."""
    machine = speed["machine"]
    how = "a core of its own for the server" if machine["pinned"] else "one core for everything"
    taken = f"medians of {speed['rounds']} rounds of {speed['seconds']:g} s"
    python = f"Python {machine['python']} ({machine['build']})"
    where = f"{machine['processor']}, {machine['system']}, {python}; {how}; {taken}."
    lines = ["## Speed\n", f"{where} An answer has 64 chunks unless stated, and the model does not pause.\n"]
    levels = sorted({cell["concurrency"] for cell in speed["cells"]})
    for mode, title in _MODES.items():
        cells = [cell for cell in speed["cells"] if cell["mode"] == mode and cell["chunks"] == Question().chunks]
        if cells:
            lines += [
                f"### {title}\n",
                "At " + ", ".join(map(str, levels)) + " requests at once.\n",
                _cells(cells, levels),
            ]
    others = [cell for cell in speed["cells"] if cell["chunks"] != Question().chunks]
    if others:
        rows = [
            [cell["chunks"], cell["server"], f"{cell['per_s']:.0f}", f"{cell['cpu_ms']:.2f}"]
            for cell in sorted(others, key=lambda cell: int(cell["chunks"]))
        ]
        head = ["chunks", "server", "requests/s", "CPU ms a request"]
        lines += ["### Short and long streams\n", f"{others[0]['concurrency']} at once.\n", table(head, rows)]
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


def burst_page(burst: dict[str, Any]) -> str:
    """Return what is said of many streams at once."""
    times = f"in {burst['seconds']:.1f} s, 99 of 100 of them within {burst['p99_s']:.1f} s"
    ended = f"{burst['ended_well']:,} of {burst['streams']:,} streams that began at once ended well"
    return f"## A burst\n\n{ended}, {times}.\n"


def large_input_page(large: dict[str, Any]) -> str:
    """Return what is said of a large input."""
    costs = f"{large['cpu_ms']:.1f} ms of CPU time, one with a short question {large['short_cpu_ms']:.1f} ms"
    return f"## A large input\n\nA request with a question of {large['bytes']:,} bytes takes {costs}.\n"


def telemetry_page(rows: list[dict[str, Any]]) -> str:
    """Return the table of what it costs to watch a run."""
    lines = [[row["watched"], f"{row['ms']:.2f}", f"{row['cpu_ms']:.2f}"] for row in rows]
    text = "The packaged flow with its offline model, inside one process.\n"
    return f"## Watching a run\n\n{text}\n" + table(["watched", "ms a run", "CPU ms a run"], lines)


def workers_page(rows: list[dict[str, Any]]) -> str:
    """Return the tables of several workers."""
    lines = [
        [
            f"{row['connections']} {'kept' if row['kept'] else 'for one request each'}",
            row["chunks"],
            f"{row['requests']:,}",
            " : ".join(f"{share:.0%}" for share in row["shares"]),
            f"{row['pss_bytes'] / 1e6:.0f}",
            f"{row['uss_bytes'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    head = ["connections", "chunks", "requests", "CPU of each worker", "PSS MB", "USS MB"]
    return "## Two workers\n\n" + table(head, lines)


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
    "burst": burst_page,
    "large_input": large_input_page,
    "engine": engine_page,
    "telemetry": telemetry_page,
    "workers": workers_page,
    "imports": imports_page,
    "endurance": endurance_page,
}


_TITLES = {"goals": "Goals", "ablation": "What each part costs"}


def read(folder: Path) -> dict[str, Any]:
    """Return the contents of the result files, by name."""
    return {name: orjson.loads(path.read_bytes()) for name in PAGES if (path := folder / f"{name}.json").exists()}


def fill(page: Path, found: dict[str, Any]) -> None:
    """Replace the tables of a page, those that have marks in it and numbers in `found`."""
    text = page.read_text()
    for name, content in tables(found).items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n\n{content}\n{end}{rest.partition(end)[2]}"
    page.write_text(text)


def write(folder: Path) -> Path:
    """Write the page from the numbers in `folder`, and return its path."""
    found = read(folder)
    shown = tables(found)
    parts = ["# Benchmark\n", *(f"## {_TITLES[name]}\n\n{shown[name]}" for name in _TITLES if name in shown)]
    write_json(folder / "goals.json", [{**asdict(goal), "result": goal.result} for goal in goals(found)])
    if "speed" in found:
        parts.append("![requests a second](speed.svg)\n")
    page = folder / "results.md"
    page.write_text("\n".join([*parts, *(PAGES[name](content) for name, content in found.items())]))
    return page


def main() -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description="Write the report of a benchmark.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, help="a page of the documentation whose tables are replaced")
    options = parser.parse_args()
    folder: Path = options.folder
    page = write(folder)
    if options.docs:
        fill(options.docs, read(folder))
    print(page.read_text().partition("\n![")[0], page, sep="\n")
    plot = [program("plot", "python"), "tests/bench/plot.py", str(folder / "speed.json"), str(folder / "speed.svg")]
    subprocess.run(plot, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
