"""`docs/clients.md` cannot lie: its code is run in each client's environment, against the packaged flow."""

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from flowpod.settings import setting_rows
from tests.support.clients import NODE, node_for, python_for
from tests.support.documents import BLOCK, SHOWN_URL, Example, check_against, examples, normal
from tests.support.serving import ROOT, environment, serving

PAGE = ROOT / "docs" / "clients.md"
PYTHON = {"OpenAI for Python": "openai_python", "LangChain": "langchain", "LlamaIndex": "llama_index"}
NODE_CLIENTS = ("OpenAI for JavaScript", "AI SDK")
APPLICATIONS = ("Chatbox", "Open WebUI", "Cherry Studio", "LobeChat", "NextChat")


def sections() -> dict[str, str]:
    """Return the text under each heading."""
    _, *parts = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def programs() -> list[tuple[str, str, str]]:
    """Return the section, the code and the output of every program on the page."""
    found = []
    for heading, text in sections().items():
        for code, shown in pairwise(BLOCK.finditer(text)):
            if code[1] in ("python", "js"):
                assert shown[1] == "text"
                found.append((heading, code[2], shown[2]))
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(ROOT / "flow", tmp_path_factory.mktemp("clients")) as served:
        yield served.url


@pytest.mark.parametrize(("heading", "code", "shown"), programs())
def test_a_program_prints_what_is_shown(heading: str, code: str, shown: str, url: str, tmp_path: Path) -> None:
    code = code.replace(SHOWN_URL, url)
    if heading in NODE_CLIENTS:
        # Code that is given to node this way finds the packages of the current folder.
        command, folder = [node_for(heading), "--input-type=module", "--eval", code], NODE
    else:
        command, folder = [python_for(PYTHON[heading]), "-c", code], tmp_path
    done = subprocess.run(command, cwd=folder, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert normal(done.stdout) == normal(shown), done.stderr


@pytest.mark.needs("curl")
@pytest.mark.parametrize("example", examples(PAGE, "curl"), ids=str)
def test_every_curl_prints_what_is_shown(example: Example, url: str) -> None:
    check_against(example, url)


def test_chatbox_comes_first_and_nothing_is_missing() -> None:
    assert list(sections())[: len(APPLICATIONS)] == list(APPLICATIONS)
    assert {heading for heading, _, _ in programs()} == {*PYTHON, *NODE_CLIENTS}
    for application in APPLICATIONS:
        text = sections()[application]
        assert "\n1. " in text
        assert "`default`" in text
        assert SHOWN_URL in text or "host.docker.internal" in text


def test_every_setting_on_the_page_exists() -> None:
    assert set(re.findall(r"FLOWPOD_[A-Z_]+", PAGE.read_text())) <= {name for name, _, _ in setting_rows()}
