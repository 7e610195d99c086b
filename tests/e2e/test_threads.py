"""Threads that never return: the process reports that it is not ready, and ends so that it is replaced."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import write_flow
from tests.support.serving import START_TIMEOUT_S, Served, serving, start_server, wait_for_status, wait_for_workers

FAULT = "threads that never return"
FLOW = """
inputs:
  file: {type: string}
outputs:
  answer: {type: string, reference: "${work.output}"}
nodes:
- name: work
  NODE
  timeout_s: 0.2
  inputs: {file: "${inputs.file}"}
"""
CODE = """
import time
from pathlib import Path

def invoke(file: str) -> str:
    while file and Path(file).exists():
        time.sleep(0.01)
    return "done"
"""
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999 if file else 1) %}{% if loop.last %}{% endif %}{% endfor %}{% endfor %}done"
PYTHON = "type: python\n  source: {path: work.py}"
TEMPLATE = "type: template\n  template: 'TEXT'".replace("TEXT", ENDLESS)


def flow_in(folder: Path, node: str = PYTHON) -> Path:
    return write_flow(folder / "flow", FLOW.replace("NODE", node), {"work.py": CODE})


def call(served: Served, file: Any = "") -> httpx.Response:
    # Each call has a connection of its own, so that any worker may take it.
    return httpx.post(served.url, json={"file": str(file)}, timeout=30)


def block_threads(served: Served, file: Any, count: int) -> None:
    for _ in range(count):
        assert call(served, file).json()["error"]["code"] == "node_timeout"


def test_a_process_without_threads_is_not_ready_until_one_returns(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.touch()
    with serving(flow_in(tmp_path), tmp_path, FLOWPOD_THREADS="2") as served:
        block_threads(served, blocker, 1)
        assert httpx.get(f"{served.url}/readyz").status_code == 200
        block_threads(served, blocker, 1)
        unready = httpx.get(f"{served.url}/readyz")
        assert (unready.status_code, "FLOWPOD_THREADS" in unready.json()["reason"]) == (503, True)
        assert call(served).json()["error"]["code"] == "no_thread"
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        blocker.unlink()
        wait_for_status(served, "/readyz", 200)
        assert call(served).json() == {"answer": "done"}
        assert served.stop() == 0


@pytest.mark.fault(FAULT)
@pytest.mark.parametrize("node", [PYTHON, TEMPLATE], ids=["python", "template"])
def test_a_process_whose_threads_never_return_ends(tmp_path: Path, node: str, figures: dict[str, object]) -> None:
    flow = flow_in(tmp_path, node)
    with serving(flow, tmp_path, FLOWPOD_THREADS="2", FLOWPOD_THREADS_EXIT_S="0.5") as served:
        block_threads(served, tmp_path, 2)
        status = figures["exit status"] = served.process.wait(START_TIMEOUT_S)
        assert status == 1
        assert "all threads have run code that does not return for 0.5 s (FLOWPOD_THREADS_EXIT_S)" in served.log


@pytest.mark.fault(FAULT)
def test_a_worker_whose_threads_never_return_is_replaced(tmp_path: Path) -> None:
    settings = {"FLOWPOD_THREADS": "1", "FLOWPOD_THREADS_EXIT_S": "0.5"}
    with start_server(flow_in(tmp_path), tmp_path, "--workers", "2", **settings) as served:
        wait_for_workers(served, 2)
        block_threads(served, tmp_path, 1)
        wait_for_workers(served, 3)
        assert "ended with status 1" in served.log
        assert [call(served).json() for _ in range(20)] == [{"answer": "done"}] * 20
        assert served.stop() == 0
