"""Two workers: how evenly they share the work, and the memory that they take.

    python -m tests.bench.workers

The workers, the client and the model share all cores. Each row is a fresh start of the server: as many connections ask
for short or long streams, over a kept connection or over a new one each time. The shares are those of the CPU time.
"""

import itertools
from dataclasses import asdict, dataclass

from tests.bench.load import Load
from tests.bench.process import Cores, raise_file_limit
from tests.bench.question import Question
from tests.bench.results import keep, options
from tests.bench.servers import Flowpod
from tests.bench.visit import run_client, visiting

WORKERS = 2
_SHORT, _LONG = Question(10), Question(100, pause_s=0.01)


@dataclass(frozen=True)
class Balance:
    """What came of so many connections: each worker's share of the CPU time, the busiest first, and their memory."""

    connections: int
    kept: bool
    chunks: int
    requests: int
    shares: list[float]
    pss_bytes: int
    uss_bytes: int


def measure(connections: int, kept: bool, question: Question, seconds: float) -> Balance:
    """Ask for so many seconds."""
    with visiting(Flowpod("flowpod", workers=WORKERS), Cores.shared()) as visited:
        ask = visited.server.ask("/", "stream", str(question))
        run_client(Load(visited.url, ask, question.answer, 4 * WORKERS, 1, kept=False), visited.cores)  # warms all up
        before = visited.tree.cpu_s_of_children()
        load = Load(visited.url, ask, question.answer, connections, seconds, kept=kept)
        result = run_client(load, visited.cores)
        after, memory = visited.tree.cpu_s_of_children(), visited.tree.memory_bytes()
    assert not result.errors, result.errors[0]
    used = sorted((after[pid] - before[pid] for pid in after), reverse=True)
    shares = [cpu_s / sum(used) for cpu_s in used]
    return Balance(connections, kept, question.chunks, result.requests, shares, *memory)


def main() -> None:
    chosen = options("Measure two workers.", seconds=(4.0, "how long each is asked"))
    raise_file_limit()
    rows = []
    for connections, question, kept in itertools.product((16, 64), (_SHORT, _LONG), (True, False)):
        row = measure(connections, kept, question, chosen.seconds)
        shares = " : ".join(f"{share:.0%}" for share in row.shares)
        how = "kept" if kept else "for one request each"
        print(
            f"{connections:3} connections {how:21}{row.chunks:4} chunks{row.requests:7} requests, CPU {shares:>11}, "
            f"PSS {row.pss_bytes / 1e6:.0f} MB, USS {row.uss_bytes / 1e6:.0f} MB",
            flush=True,
        )
        rows.append(asdict(row))
    keep(chosen.results, "workers.json", rows)


if __name__ == "__main__":
    main()
