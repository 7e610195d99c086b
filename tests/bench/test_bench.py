"""The benchmark itself works, from the servers to the report; what it measures is not looked at here."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.ablation import rows
from tests.bench.goals import Goal
from tests.bench.load import Ask, Load, unchunked
from tests.bench.process import Cores
from tests.bench.question import Question
from tests.bench.report import fill, read, write
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
    plan = Plan(servers, levels=[4], modes=["stream"], endpoints=["/run"], seconds=0.5, lengths=[10])
    numbers = measure(plan)
    assert numbers.failures == []
    content = numbers.content()
    found = [(cell["server"], cell["endpoint"], cell["chunks"]) for cell in content["cells"]]
    assert found == [("flowpod", "/run", 64), ("flowpod", "/", 10), ("limit", "/", 64), ("limit", "/", 10)]
    for cell in content["cells"]:
        assert cell["per_s"] * len(Question(cell["chunks"]).answer) == pytest.approx(cell["text_per_s"])
        assert min(cell["first_p50_ms"], cell["cpu_ms"]) > 0
    write_json(tmp_path / "speed.json", {"seconds": 1, "rounds": 1, **content})
    page, docs = write(tmp_path).read_text(), tmp_path / "docs.md"
    docs.write_text("Goals:\n\n<!-- begin goals -->\nold\n<!-- end goals -->\n\nEnd.\n")
    fill(docs, read(tmp_path))
    assert docs.read_text().startswith("Goals:\n\n<!-- begin goals -->\n\n| goal | ")
    assert docs.read_text().endswith(" |\n\n<!-- end goals -->\n\nEnd.\n")
    assert "| flowpod `/run` | " in page
    assert "| streamed in 10 chunks, `/`, times the limit | at least 0.5 | " in page
    assert "streamed in 64 chunks" not in page  # no goal without its level


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


def test_a_goal_is_met_by_requests_and_by_cpu_time() -> None:
    assert Goal("speed", "at least", 0.9, 0.95, 0.91).result == "met"
    assert Goal("speed", "at least", 0.9, 0.95, 0.89).result == "missed"
    assert Goal("memory, MB", "at most", 100, 99).result == "met"


def test_what_each_part_costs_is_the_difference_to_all_on() -> None:
    def cell(server: str, mode: Mode, cpu_ms: float) -> dict[str, object]:
        return {"server": server, "endpoint": "/", "mode": mode, "concurrency": 16, "chunks": 64, "cpu_ms": cpu_ms}

    cells = [cell("flowpod", "stream", 2), cell("flowpod", "whole", 1)]
    cells += [cell("flowpod-no-history", "stream", 1.75), cell("flowpod-no-history", "whole", 0.5)]
    assert rows({"speed": {"cells": cells}}) == [
        ("all on", "2.00", "", "1.00", ""),
        ("without history", "1.75", "0.25", "0.50", "0.50"),
    ]
