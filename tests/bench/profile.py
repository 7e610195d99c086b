"""Where the processor time of one streamed run goes, by what the code belongs to.

    python -m tests.bench.profile

py-spy takes samples of the server while it is asked, 16 at once. Each sample counts for the innermost frame that belongs
to a part; frames of the standard library and of the event loop count for whoever called them. The shares are those of
the processor time that the kernel says the server used.
"""

import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.peers.servers import program
from tests.bench.question import Question
from tests.bench.results import keep, options
from tests.bench.servers import SERVERS
from tests.bench.visit import Started, visiting

CONCURRENCY = 16
RATE = 400

PARTS: Mapping[str, tuple[str, ...]] = {
    "HTTP: uvicorn, Starlette, sse-starlette": ("/uvicorn/", "/starlette/", "/sse_starlette/"),
    "protocols: requests in, events out": ("/flowpod/api/",),
    "engine": ("/flowpod/engine/", "/flowpod/flow/", "/flowpod/service.py"),
    "nodes: prompt, the model's events": ("/flowpod/nodes/", "/flowpod/models/", "/flowpod/content/", "/jinja2/"),
    "model client: openai, httpx": ("/openai/", "/httpx2/", "/httpcore2/"),
    "model client: aiohttp": ("/aiohttp/", "/yarl/", "/multidict/"),
    "traces and metrics": ("/opentelemetry/", "/flowpod/telemetry/"),
    "chat history": ("/sqlalchemy/", "/aiosqlite/", "/flowpod/storage/"),
    "log": ("/logging/", "/flowpod/logs.py"),
}
REST = "event loop, and the rest"


@dataclass(frozen=True)
class Profile:
    """Microseconds of processor time a request, as a whole and by part; `samples` is how many there were."""

    cpu_us: float
    samples: int
    parts: dict[str, float]


def part_of(stack: str) -> str:
    """Return the part of a stack, `outermost;...;innermost` with each frame as `name (file:line)`."""
    for frame in reversed(stack.split(";")):
        for part, places in PARTS.items():
            if any(place in frame for place in places):
                return part
    return REST


def shares(lines: Iterable[str]) -> tuple[dict[str, float], int]:
    """Return the share of each part, the largest first, and the number of samples; a line is a stack and its count."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        counts[part_of(stack)] += int(count)
    total = counts.total()
    return {part: count / total for part, count in counts.most_common()}, total


def measure(seconds: float) -> Profile:
    """Sample the server for so many seconds."""
    with tempfile.TemporaryDirectory() as name, visiting(SERVERS["flowpod"]) as visited:
        visited.warm_up([("/", "stream")])
        cpu_ms = visited.sample("/", "stream", CONCURRENCY, seconds).cpu_ms  # without the sampler, which slows it
        found, samples = shares(_sampled(visited, seconds, Path(name) / "stacks"))
    return Profile(cpu_ms * 1000, samples, {part: share * cpu_ms * 1000 for part, share in found.items()})


def _sampled(visited: Started, seconds: float, stacks: Path) -> list[str]:
    question, pid = Question(), str(visited.tree.process.pid)
    record = [program("profile", "py-spy"), "record", "--pid", pid, "--gil", "--full-filenames", "--format", "raw"]
    options = ["--rate", str(RATE), "--duration", f"{seconds:.0f}", "--output", str(stacks)]
    with subprocess.Popen([*record, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        visited.load(visited.server.ask("/", "stream", str(question)), question, CONCURRENCY, seconds + 1)
        _, errors = spy.communicate()
    assert spy.returncode == 0, errors
    return stacks.read_text().splitlines()


def main() -> None:
    about = "Measure where the processor time of a streamed run goes."
    chosen = options(about, seconds=(10.0, "how long it is sampled"))
    profile = measure(chosen.seconds)
    print(f"{profile.cpu_us:.0f} us of processor time a request, by {profile.samples} samples:")
    for part, microseconds in profile.parts.items():
        print(f"{microseconds:7.0f}  {part}")
    keep(chosen.results, "profile.json", asdict(profile))


if __name__ == "__main__":
    main()
