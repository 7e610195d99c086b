"""What a large input costs: the CPU time of a request with a question of so many bytes, and of one with a short one.

    python -m tests.bench.large_input --bytes 1000000

The question is ordinary lines of text. Each number is the median of rounds, the two kinds in turn.
"""

import statistics
from dataclasses import asdict, dataclass

from tests.bench.results import keep, options
from tests.bench.servers import SERVERS
from tests.bench.visit import Cell, visiting

_ROUNDS = 3
_CELL = Cell("flowpod", "/", "stream", 1)


@dataclass(frozen=True)
class LargeInput:
    """CPU milliseconds of a request whose question has so many bytes, and of one with a short question."""

    bytes: int
    cpu_ms: float
    short_cpu_ms: float


def measure(size: int, seconds: float) -> LargeInput:
    """Ask one question at a time."""
    taken: dict[int, list[float]] = {0: [], size: []}
    with visiting(SERVERS["flowpod"]) as visited:
        visited.warm_up([("/", "stream")])
        for _ in range(_ROUNDS):
            for length, found in taken.items():
                found.append(visited.sample(_CELL, seconds, length).cpu_ms)
    return LargeInput(size, statistics.median(taken[size]), statistics.median(taken[0]))


def main() -> None:
    chosen = options("Measure a large input.", bytes=(1_000_000, "how long it is"), seconds=(2.0, "how long each asks"))
    large = measure(chosen.bytes, chosen.seconds)
    print(
        f"{large.cpu_ms:.2f} ms of CPU time with {large.bytes:,} bytes, {large.short_cpu_ms:.2f} ms with a short question"
    )
    keep(chosen.results, "large_input.json", asdict(large))


if __name__ == "__main__":
    main()
