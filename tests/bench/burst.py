"""Many streams at once, each the first turn of a session of its own: all have to end well.

python -m tests.bench.burst --streams 1000
"""

from dataclasses import asdict, dataclass

from tests.bench.load import Load
from tests.bench.process import raise_file_limit
from tests.bench.question import Question
from tests.bench.results import keep, options
from tests.bench.servers import Flowpod
from tests.bench.visit import run_client, visiting


@dataclass(frozen=True)
class Burst:
    """So many streams began at once; the rest ended with an error. The slowest of a hundred took `p99_s` seconds."""

    streams: int
    ended_well: int
    seconds: float
    p99_s: float
    first_p99_s: float
    errors: list[str]


def measure(streams: int) -> Burst:
    """Begin all of them as fast as the client can, against a server that has answered once."""
    raise_file_limit()
    question = Question()
    with visiting(Flowpod("flowpod", settings={"FLOWPOD_MAX_RUNS": str(streams)})) as visited:
        ask = visited.server.ask(visited.server.endpoints[0], "stream", str(question))
        result = run_client(Load(visited.url, ask, question.answer, streams), visited.cores)
        visited.tree.check()
    return Burst(streams, result.requests, result.seconds, result.p99_s, result.first_p99_s, list(result.errors))


def main() -> None:
    chosen = options("Measure many streams at once.", streams=(1000, "how many"))
    burst = measure(chosen.streams)
    print(f"{burst.ended_well} of {burst.streams} streams ended well, in {burst.seconds:.2f} s")
    print(*burst.errors, sep="\n")
    keep(chosen.results, "burst.json", asdict(burst))


if __name__ == "__main__":
    main()
