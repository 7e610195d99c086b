"""Runs the commands in README.md and compares their output with the output in the page."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.documents import Example, check_against, examples, normal
from tests.support.serving import ROOT, environment

README = ROOT / "README.md"
START_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`make serve`, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("readme")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["make", "serve", f"PORT={port}"], cwd=ROOT, env=environment(folder), stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while True:
            try:
                httpx.get(f"{url}/readyz").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.needs("make")
@pytest.mark.needs("curl")
@pytest.mark.parametrize("example", examples(README, "curl"), ids=str)
def test_every_curl_prints_what_is_shown(example: Example, url: str) -> None:
    check_against(example, url)


@pytest.mark.parametrize("example", examples(README, "flowpod"), ids=str)
def test_every_command_prints_what_is_shown(example: Example, tmp_path: Path) -> None:
    command = example.command.replace(".venv/bin/flowpod", "python -m flowpod")
    env = environment(tmp_path) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>&1"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    # The order of lines depends on when standard output and standard error are flushed.
    assert sorted(normal(done.stdout).splitlines()) == sorted(normal(example.shown).splitlines())


@pytest.mark.needs("make")
def test_make_help_lists_every_target() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert all(f"make {target} " in printed for target in targets)


def test_the_variables_of_a_real_model_are_the_packaged_connections() -> None:
    connection = (ROOT / "flow" / "connections.yaml").read_text()
    named = set(re.findall(r"export (OPENAI_\w+)=", README.read_text()))
    assert (
        named == set(re.findall(r"\$\{env:(\w+)", connection)) == {"OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"}
    )
