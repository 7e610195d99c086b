"""One visit to one server: it is started, every number is taken, and it is ended."""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.load import UNIQUE, Ask, Load, LoadResult
from tests.bench.process import Cores, Tree, free_port, pinned, running
from tests.bench.question import Question
from tests.bench.server import Mode, Place, Server
from tests.support.serving import ROOT

_START_S = 60
_LOAD_S = 300
_WARM_UP_S = 0.5
_CLIENT = [sys.executable, "-m", "tests.bench.load"]


@dataclass(frozen=True, order=True)
class Cell:
    """What one number is of."""

    server: str
    endpoint: str
    mode: Mode
    concurrency: int
    chunks: int = Question().chunks


@dataclass(frozen=True)
class Sample:
    """The numbers of one run of the client; times in milliseconds.

    `cpu_ms` is what the server's processes used for a request, `others_cpu` the share of the other core that the client
    and the model used: near 1, the numbers are theirs and not the server's.
    """

    per_s: float
    text_per_s: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    cpu_ms: float
    others_cpu: float


@dataclass(frozen=True)
class Start:
    """The start of a server: seconds from the command to its first answer, and its memory then."""

    cold_s: float
    idle_bytes: int


@dataclass(frozen=True)
class Mock:
    """The mock model: its base URL and its process."""

    url: str
    tree: Tree


@dataclass(frozen=True)
class Started:
    """A server that has answered once."""

    server: Server
    url: str
    tree: Tree
    mock: Mock
    cores: Cores
    start: Start

    def load(self, ask: Ask, question: Question, concurrency: int, seconds: float = 0.0) -> LoadResult:
        """Run the client; raises AssertionError where an answer is wrong or missing."""
        result = run_client(Load(self.url, ask, question.answer, concurrency, seconds), self.cores)
        self.tree.check()
        assert not result.errors, f"{self.server.name} {ask.path}: {result.errors[0]}"
        return result

    def sample(self, cell: Cell, seconds: float, size: int = 0) -> Sample:
        """Ask for answers without pauses, as fast as they come; a question has about `size` bytes."""
        question = Question(cell.chunks, size=size)
        before, mock_before = self.tree.cpu_s(), self.mock.tree.cpu_s()
        ask = self.server.ask(cell.endpoint, cell.mode, str(question))
        result = self.load(ask, question, cell.concurrency, seconds)
        others_s = result.cpu_s + self.mock.tree.cpu_s() - mock_before
        cpu_ms = (self.tree.cpu_s() - before) * 1000 / result.requests
        times = (result.p50_s, result.p99_s, result.first_p50_s, result.first_p99_s)
        p50, p99, first_p50, first_p99 = (second * 1000 for second in times)
        return Sample(
            result.requests / result.seconds,
            result.text_bytes / result.seconds,
            p50,
            p99,
            first_p50,
            first_p99,
            cpu_ms,
            others_s / result.seconds,
        )

    def paced_s(self, streams: int, question: Question) -> float:
        """Return how many seconds so many streams at once take of an answer that has pauses."""
        ask = self.server.ask(self.server.endpoints[0], "stream", str(question))
        return self.load(ask, question, streams).seconds

    def bytes_per_stream(self, streams: int, seconds: float) -> tuple[int, float]:
        """Open streams that are silent for so many seconds after their first word, and wait until all have ended.

        Returns how many were open at once, and the memory that each of them took. Raises AssertionError where one does
        not end well.
        """
        question = Question(chunks=2, pause_s=seconds)
        ask = self.server.ask(self.server.endpoints[0], "stream", str(question))
        load = Load(self.url, ask, question.answer, streams, hold=seconds * 0.8)
        before = self.tree.rss_bytes()
        command = pinned(self.cores.others, _CLIENT)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(json.dumps(asdict(load)))
            client.stdin.close()
            begun = int(client.stdout.readline())
            taken = self.tree.rss_bytes() - before
            result = LoadResult(**json.loads(client.stdout.readline()))
        assert not result.errors, f"{self.server.name}: {result.errors[0]}"
        assert result.requests == streams, f"{self.server.name}: {result.requests} of {streams} streams ended well"
        return begun, taken / max(begun, 1)

    def warm_up(self, kinds: Iterable[tuple[str, Mode]]) -> None:
        """Let the server do everything that will be measured before it is."""
        for endpoint, mode in kinds:
            self.load(self.server.ask(endpoint, mode, str(Question())), Question(), 8, _WARM_UP_S)


def run_client(load: Load, cores: Cores) -> LoadResult:
    """Run the client in a process of its own."""
    command, given = pinned(cores.others, _CLIENT), json.dumps(asdict(load))
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, timeout=_LOAD_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return LoadResult(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def model(cores: Cores, folder: Path) -> Iterator[Mock]:
    """Run the mock model until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.mock_model", "--port", str(port)]
    with running(command, cores.others, folder / "model.log") as tree:
        _first_answer(port, "GET", Ask("/v1/models", {}, ""), tree)
        yield Mock(f"http://127.0.0.1:{port}/v1", tree)


@contextmanager
def started(server: Server, mock: Mock, cores: Cores, folder: Path) -> Iterator[Started]:
    """Start a server, take the time of its first answer, and end it after the block."""
    folder.mkdir(parents=True)
    place = Place(free_port(), mock.url, folder)
    command = server.command(place)
    ask = server.ask(server.endpoints[0], "whole", str(Question()))
    begun = time.monotonic()
    with running(command, cores.server, folder / "server.log", server.environment(place)) as tree:
        _first_answer(place.port, "POST", ask, tree)
        start = Start(time.monotonic() - begun, tree.rss_bytes())
        yield Started(server, f"http://127.0.0.1:{place.port}", tree, mock, cores, start)


@contextmanager
def visiting(server: Server, cores: Cores | None = None) -> Iterator[Started]:
    """Start the model and one server in a temporary folder, until the block ends."""
    cores = cores or Cores.of_this_machine()
    with (
        tempfile.TemporaryDirectory() as name,
        model(cores, Path(name)) as mock,
        started(server, mock, cores, Path(name) / server.name) as visited,
    ):
        yield visited


def _first_answer(port: int, method: str, ask: Ask, tree: Tree) -> None:
    """Ask until there is an answer; raises AssertionError when there is none in time."""
    deadline = time.monotonic() + _START_S
    headers = {name: value.replace(UNIQUE, "f" * 32) for name, value in ask.headers.items()}
    seen = "nothing"
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
        try:
            connection.request(method, ask.path, json.dumps(ask.body), {"content-type": "application/json", **headers})
            response = connection.getresponse()
            seen = f"{response.status} {response.read()[:500]!r}"
            if response.status == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            seen = str(error)
        finally:
            connection.close()
        tree.check()
        time.sleep(0.005)
    raise AssertionError(f"no answer in {_START_S} s: {seen}\n{tree.log.read_text()[-3000:]}")
