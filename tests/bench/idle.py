"""Streams that are open and silent: what each of them takes of one worker's memory, and that all end well.

    python -m tests.bench.idle --streams 2000 --seconds 60

The memory is the growth of the resident set since the worker was warm, connections to the model included.
"""

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.process import Cores, raise_file_limit
from tests.bench.results import write_json
from tests.bench.servers import Flowpod
from tests.bench.visit import model, started


@dataclass(frozen=True)
class Idle:
    """So many streams were open at once, and took so many bytes each."""

    streams: int
    open: int
    bytes_per_stream: float


def measure(streams: int, seconds: float) -> Idle:
    """Hold the streams open; raises AssertionError where one does not end well."""
    raise_file_limit()
    cores, server = Cores.of_this_machine(), Flowpod("flowpod", settings={"FLOWPOD_MAX_RUNS": str(streams)})
    with (
        tempfile.TemporaryDirectory() as name,
        model(cores, Path(name)) as mock,
        started(server, mock, cores, Path(name) / server.name) as visited,
    ):
        visited.warm_up([(server.endpoints[0], "stream")])
        return Idle(streams, *visited.bytes_per_stream(streams, seconds))


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description="Measure streams that are open and silent.")
    parser.add_argument("--streams", type=int, default=2000, help="how many (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long each is silent (default %(default)s)")
    parser.add_argument("--results", type=Path, help="a folder for idle.json")
    options = parser.parse_args()
    idle = measure(options.streams, options.seconds)
    print(
        f"{idle.open} of {idle.streams} streams open at once, {idle.bytes_per_stream / 1000:.0f} kB each; all ended well"
    )
    if options.results:
        write_json(options.results / "idle.json", asdict(idle))


if __name__ == "__main__":
    main()
