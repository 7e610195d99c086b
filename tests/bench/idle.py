"""Streams that are open and silent: what each of them takes of one worker's memory, and that all end well.

    python -m tests.bench.idle --streams 2000 --seconds 60

The memory is the growth of the resident set since the worker was warm, connections to the model included.
"""

from dataclasses import asdict, dataclass

from tests.bench.process import raise_file_limit
from tests.bench.results import keep, options
from tests.bench.servers import Flowpod
from tests.bench.visit import visiting


@dataclass(frozen=True)
class Idle:
    """So many streams were open at once, and took so many bytes each."""

    streams: int
    open: int
    bytes_per_stream: float


def measure(streams: int, seconds: float) -> Idle:
    """Hold the streams open; raises AssertionError where one does not end well."""
    raise_file_limit()
    with visiting(Flowpod("flowpod", settings={"FLOWPOD_MAX_RUNS": str(streams)})) as visited:
        visited.warm_up([(visited.server.endpoints[0], "stream")])
        return Idle(streams, *visited.bytes_per_stream(streams, seconds))


def main() -> None:
    numbers = {"streams": (2000, "how many"), "seconds": (60.0, "how long each is silent")}
    chosen = options("Measure streams that are open and silent.", **numbers)
    idle = measure(chosen.streams, chosen.seconds)
    print(
        f"{idle.open} of {idle.streams} streams open at once, {idle.bytes_per_stream / 1000:.0f} kB each; all ended well"
    )
    keep(chosen.results, "idle.json", asdict(idle))


if __name__ == "__main__":
    main()
