"""The log lines of a running server: ids, formats, and prints of nodes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import Served, serving

PRINTING = """
import asyncio
import sys

print("imported")

def invoke(name: str) -> str:
    print("hello", name)
    print("two\\nlines")
    print()
    sys.stderr.write("a warning of " + name + "\\n")
    print("not ended", end="")
    return name
"""
ON_LOOP = """
import asyncio

async def invoke(name: str) -> str:
    print("before", name)
    await asyncio.sleep(0.01)
    print("after", name)
    return name
"""


def printing_flow(folder: Path) -> Path:
    dag = """
    inputs:
      name: {type: string}
    outputs:
      out: {type: string, reference: "${talk.output}"}
    nodes:
    - {name: talk, type: python, source: {path: talk.py}, inputs: {name: "${inputs.name}"}}
    - {name: later, type: python, source: {path: later.py}, inputs: {name: "${inputs.name}"}}
    """
    return write_flow(folder, dag, {"talk.py": PRINTING, "later.py": ON_LOOP})


def lines_of(served: Served) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]


def test_json_lines_have_the_ids_of_their_run(tmp_path: Path) -> None:
    with serving(printing_flow(tmp_path / "flow"), tmp_path, FLOWPOD_LOG_FORMAT="json") as served:
        ids = {}
        for name in ("ann", "bob"):
            body = {"inputs": {"name": name}, "stream": False}
            answer = httpx.post(f"{served.url}/run", json=body, headers={"X-Request-Id": f"request-{name}"})
            info = answer.json()["flow_run_info"]
            ids[name] = (f"request-{name}", info["run_id"], info["otel_trace_id"])
        served.stop()
    assert "\nimported\n" in f"\n{served.log}"  # no run printed that
    for name, (request_id, run_id, trace_id) in ids.items():
        own = [line for line in lines_of(served) if line.get("run_id") == run_id]
        assert {(line["request_id"], line["trace_id"]) for line in own} == {(request_id, trace_id)}
        printed = [(line["node"], line["stream"], line["message"]) for line in own if "stream" in line]
        assert [text for node, _, text in printed if node == "later"] == [f"before {name}", f"after {name}"]
        assert [(stream, text) for node, stream, text in printed if node == "talk"] == [
            ("stdout", f"hello {name}"),
            ("stdout", "two"),
            ("stdout", "lines"),
            ("stderr", f"a warning of {name}"),
            ("stdout", "not ended"),
        ]
        access = own[-1]
        assert (access["method"], access["path"], access["status"], access["whole"]) == ("POST", "/run", 200, True)
        assert 0 < access["first_byte"] <= access["duration"] < 30
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", access["time"])


def test_text_lines_are_for_people(tmp_path: Path) -> None:
    with serving(printing_flow(tmp_path / "flow"), tmp_path, FLOWPOD_LOG_FORMAT="text") as served:
        httpx.post(f"{served.url}/", json={"name": "ann"}, headers={"X-Request-Id": "find-me"})
        httpx.get(f"{served.url}/nowhere", headers={"X-Request-Id": "lost"})
        httpx.get(f"{served.url}/healthz")
        httpx.get(f"{served.url}/readyz")
        served.stop()
    assert re.search(r"INFO flow\.talk \[find-me\] hello ann \(run \S+\)", served.log)
    assert re.search(
        r"INFO flowpod\.api\.http\.access_log \[find-me\] POST / 200 in \d+\.\d{3} s, first byte after \d+\.\d{3} s \(run \S+\)",
        served.log,
    )
    assert re.search(r"\[lost\] GET /nowhere 404 in \S+ s, first byte after \S+ s\n", served.log)
    assert "healthz" not in served.log
    assert "readyz" not in served.log


def test_lines_are_json_without_a_terminal(tmp_path: Path) -> None:
    with serving(printing_flow(tmp_path / "flow"), tmp_path, FLOWPOD_LOG_FORMAT="auto") as served:
        served.stop()
    assert any(line["message"].startswith("serving flow 'flow'") for line in lines_of(served))


def test_a_failure_is_one_line_with_its_stack(tmp_path: Path) -> None:
    flow = printing_flow(tmp_path / "flow")
    (flow / "later.py").write_text(ON_LOOP.replace("return name", "raise RuntimeError('odd')"))
    with serving(flow, tmp_path, FLOWPOD_LOG_FORMAT="json") as served:
        httpx.post(f"{served.url}/", json={"name": "ann"})
        served.stop()
    (line,) = (line for line in lines_of(served) if "exception" in line)
    assert line["level"] == "warning"
    assert line["exception"].endswith("RuntimeError: odd")


def test_a_client_that_disconnects_is_logged(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "silent")
    with serving(flow, tmp_path, FLOWPOD_LOG_FORMAT="text") as served:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/", json={"question": "hi"}, headers={"Accept": "text/event-stream"}, timeout=0.5)
        metrics = httpx.get(f"{served.url}/metrics").text
        served.stop()
    assert re.search(r"POST / \d+ in \S+ s.*, the client left \(run \S+\)", served.log)
    assert "flowpod_stream_active 0.0" in metrics


def one_node(folder: Path, code: str) -> Path:
    dag = """
    inputs:
      name: {type: string}
    outputs:
      out: {type: string, reference: "${talk.output}"}
    nodes:
    - {name: talk, type: python, source: {path: talk.py}, inputs: {name: "${inputs.name}"}}
    """
    return write_flow(folder, dag, {"talk.py": "from promptflow.core import tool\n\n@tool\n" + code})


ADDING_A_HANDLER = """
def talk(name: str) -> str:
    import logging
    logging.getLogger().addHandler(logging.StreamHandler())
    print("printed", name)
    logging.getLogger("own").warning("logged %s", name)
    return name
"""


def test_a_nodes_own_log_handler_on_the_standard_error_does_no_harm(tmp_path: Path) -> None:
    flow = one_node(tmp_path / "flow", ADDING_A_HANDLER.strip())
    with serving(flow, tmp_path, FLOWPOD_LOG_FORMAT="json") as served:
        answers = [httpx.post(f"{served.url}/", json={"name": name}) for name in ("ann", "bob")]
        served.stop()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "RecursionError" not in served.log
    messages = [line["message"] for line in lines_of(served)]
    assert messages.count("printed ann") == 1
    assert "logged bob" in messages


def test_no_caller_can_forge_a_text_line(tmp_path: Path) -> None:
    with serving(
        printing_flow(tmp_path / "flow"), tmp_path, FLOWPOD_LOG_FORMAT="text", FLOWPOD_TOKENS="t" * 16
    ) as served:
        httpx.get(f"{served.url}/x%0a2026-01-01 INFO forged%1b[31m%c2%9b")
        served.stop()
    assert r"GET /x\n2026-01-01 INFO forged\x1b[31m\x9b 401" in served.log
    assert "\x1b" not in served.log


@pytest.mark.parametrize("style", ["text", "json"])
def test_long_exceptions_are_truncated(tmp_path: Path, style: str) -> None:
    flow = one_node(tmp_path / "flow", 'def talk(name: str) -> str:\n    raise ValueError("\\x1b" + name * 100_000)\n')
    with serving(flow, tmp_path, FLOWPOD_LOG_FORMAT=style) as served:
        httpx.post(f"{served.url}/", json={"name": "x" * 10})
        served.stop()
    assert "Traceback" in served.log
    assert "characters left out" in served.log
    assert "\x1b" not in served.log
    assert len(served.log) < 40_000


IN_A_LOOP = """
import asyncio, logging, os, threading
from flowpod.logs import set_up_logging

set_up_logging("info", "json")
logger = logging.getLogger("flowpod.test")

async def main():
    logger.info("first")
    thread = threading.Thread(target=logger.info, args=["of a thread"])
    thread.start()
    thread.join()
    logger.info("second")
    await asyncio.sleep(0)
    CLOSE
    logger.info("third")
    logger.error("error")
    logger.info("last")

asyncio.run(main())
logging.shutdown()
os._exit(0)
"""


def test_lines_keep_their_order_and_none_is_lost_at_the_end() -> None:
    command = [sys.executable, "-c", IN_A_LOOP.replace("CLOSE", "")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert messages == ["first", "of a thread", "second", "third", "error", "last"]


def test_logging_to_a_closed_stream_raises_nothing() -> None:
    command = [sys.executable, "-c", IN_A_LOOP.replace("CLOSE", "os.close(2)") + "\n"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


THREADS_AND_FORKS = """
import asyncio, logging, os, threading
from flowpod.logs import set_up_logging

set_up_logging("info", "json")
logger = logging.getLogger("flowpod.test")
logged, end = threading.Event(), threading.Event()

async def block():
    logger.info("of a blocked loop")
    logged.set()
    end.wait()

async def main():
    thread = threading.Thread(target=lambda: asyncio.run(block()))
    thread.start()
    logged.wait()
    logger.info("of the main loop")
    await asyncio.sleep(0)
    os.write(2, b'{"message": "the turn is over"}\\n')
    logger.info("before the fork")
    if os.fork() == 0:
        logger.info("of the child")
        logging.shutdown()
        os._exit(0)
    os.wait()
    end.set()
    thread.join()

asyncio.run(main())
"""


def test_no_line_waits_for_the_loop_of_a_thread_or_is_written_by_a_forked_process_again() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS_AND_FORKS], capture_output=True, text=True, check=True)
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert messages == ["of a blocked loop", "of the main loop", "the turn is over", "before the fork", "of the child"]
