"""`make bench-endurance`: one worker's memory over 100,000 runs, streamed and whole, with history and tracing on.

    python -m tests.bench.endurance --runs 100000

Prints the resident set as it goes, and how much it grew for 1,000 runs in the second half.
"""

import statistics
import time
from dataclasses import asdict, dataclass

from tests.bench.process import raise_file_limit
from tests.bench.question import Question
from tests.bench.results import keep, options
from tests.bench.server import Mode
from tests.bench.servers import Flowpod
from tests.bench.visit import Started, visiting

_LEVEL = 16
_PART_S = 5.0


@dataclass(frozen=True)
class Point:
    """The memory after so many runs."""

    runs: int
    seconds: float
    rss_bytes: int


def measure(runs: int) -> list[Point]:
    """Run that often; raises AssertionError where an answer is wrong or missing."""
    raise_file_limit()
    with visiting(Flowpod("flowpod")) as visited:
        begun = time.monotonic()
        points = [Point(0, 0.0, visited.tree.rss_bytes())]
        while points[-1].runs < runs:
            done = points[-1].runs + sum(_part(visited, endpoint, mode) for endpoint, mode in _KINDS)
            points.append(Point(done, time.monotonic() - begun, visited.tree.rss_bytes()))
            print(f"{done:8} runs {points[-1].seconds:7.0f} s {points[-1].rss_bytes / 1e6:7.1f} MB", flush=True)
        return points


_KINDS: tuple[tuple[str, Mode], ...] = (("/", "stream"), ("/run", "stream"), ("/v1", "whole"))


def _part(visited: Started, endpoint: str, mode: Mode) -> int:
    question = Question()
    return visited.load(visited.server.ask(endpoint, mode, str(question)), question, _LEVEL, _PART_S).requests


def growth(points: list[Point]) -> float:
    """Return the bytes that 1,000 runs added in the second half, by the line that fits best."""
    half = [point for point in points if point.runs >= points[-1].runs / 2]
    if len(half) < 2:
        return 0.0
    fit = statistics.linear_regression([point.runs for point in half], [point.rss_bytes for point in half])
    return fit.slope * 1000


def main() -> None:
    chosen = options("Measure a worker's memory over many runs.", runs=(100_000, "how many"))
    points = measure(chosen.runs)
    grown = growth(points)
    print(f"{points[-1].runs} runs; in the second half 1,000 runs added {grown / 1000:.1f} kB")
    content = {"bytes_per_1000_runs": grown, "points": [asdict(point) for point in points]}
    keep(chosen.results, "endurance.json", content)


if __name__ == "__main__":
    main()
