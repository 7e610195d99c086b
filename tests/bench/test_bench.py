"""The benchmark itself works, from the servers to the report; what it measures is not looked at here."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.load import Ask, Load, unchunked
from tests.bench.process import Cores
from tests.bench.profile import REST, shares
from tests.bench.question import Question
from tests.bench.report import write
from tests.bench.results import write_json
from tests.bench.server import Mode, openai_ask
from tests.bench.servers import SERVERS
from tests.bench.speed import Plan, measure
from tests.bench.visit import model, run_client

pytestmark = pytest.mark.needs("taskset")


def ask_model(folder: Path, ask: Ask, answer: str, concurrency: int = 1) -> tuple[int, Sequence[str]]:
    cores = Cores.of_this_machine()
    with model(cores, folder) as mock:
        result = run_client(Load(mock.url.removesuffix("/v1"), ask, answer, concurrency), cores)
    return result.requests, result.errors


def test_flowpod_and_a_limit_are_measured(tmp_path: Path) -> None:
    servers = [SERVERS["flowpod"], SERVERS["limit"]]
    numbers = measure(Plan(servers, levels=[4], modes=["stream"], endpoints=["/run"], seconds=1))
    assert numbers.failures == []
    content = numbers.content()
    assert [(cell["server"], cell["endpoint"]) for cell in content["cells"]] == [("flowpod", "/run"), ("limit", "/")]
    for cell in content["cells"]:
        assert cell["per_s"] * len(Question().answer) == pytest.approx(cell["text_per_s"])
        assert min(cell["first_p50_ms"], cell["cpu_ms"]) > 0
    write_json(tmp_path / "speed.json", {"seconds": 1, "rounds": 1, **content})
    page = write(tmp_path).read_text()
    assert "| flowpod `/run` | " in page
    assert "| stream, 16 at once" not in page  # no goal without its level


@pytest.mark.parametrize("mode", ["stream", "whole"])
def test_the_model_answers_as_it_is_asked(tmp_path: Path, mode: Mode) -> None:
    question = Question(chunks=20, pause_s=0.001)
    assert ask_model(tmp_path, openai_ask(str(question), mode), question.answer, 3) == (3, [])


def test_the_client_finds_a_wrong_answer(tmp_path: Path) -> None:
    requests, errors = ask_model(tmp_path, openai_ask(str(Question(3)), "stream"), Question(4).answer)
    assert requests == 0
    assert errors[0].startswith("a wrong answer: b'data: {")


def test_chunked_encoding_is_undone() -> None:
    assert unchunked(b"head3\r\nabc\r\nA\r\n0\r\n\r\n45678\r\n0\r\n\r\n", 4) == b"abc0\r\n\r\n45678"
    assert unchunked(b"3\r\nabc\r\n", 0) is None


def test_a_sample_counts_for_the_innermost_part() -> None:
    run = "main (/x/flowpod/cli/main.py:1);run (/x/flowpod/engine/run.py:2)"
    stacks = [
        f"{run};read (/x/flowpod/storage/sessions/reader.py:3);execute (/lib/sqlalchemy/engine.py:4) 6",
        f"{run};post (/lib/openai/_client.py:5);timeout (/lib/asyncio/timeouts.py:6) 3",
        "main (/x/flowpod/cli/main.py:1) 1",
    ]
    assert shares(stacks) == ({"chat history": 0.6, "model client: openai, httpx": 0.3, REST: 0.1}, 10)
