"""The served command under odd circumstances: early signals, dying workers, hostile clients."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.flows import write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import (
    ROOT,
    environment,
    run_command,
    serving,
    start_server,
    turns,
    wait_for_status,
    wait_for_workers,
    wait_until_refused,
)


@pytest.mark.fault("a signal arrives while the server starts")
def test_a_signal_while_starting_ends_the_server(tmp_path: Path, chat_flow: Path) -> None:
    for delay in (0.0, 0.02, 0.05):
        with start_server(chat_flow, tmp_path) as served:  # returns as soon as the address is logged
            time.sleep(delay)
            assert served.stop(timeout=10) == 0


@pytest.mark.fault("a signal arrives while the server starts")
def test_a_signal_while_workers_start_ends_them_all(tmp_path: Path, chat_flow: Path) -> None:
    command = [sys.executable, "-m", "flowpod", "serve", str(chat_flow), "--port", "0", "--workers", "4"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        started = next(line for line in process.stderr if "started" in line)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) in (0, 1)
    for pid in re.findall(r"worker (\d+) started", started + rest):
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.fault("a worker, or the parent of the workers, is killed")
def test_workers_end_with_their_parent_and_one_that_dies_is_replaced(tmp_path: Path, chat_flow: Path) -> None:
    with start_server(chat_flow, tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        os.kill(int(re.findall(r"worker (\d+) started", served.log)[0]), signal.SIGKILL)
        wait_for_workers(served, 3)
        httpx.post(served.url, json={"question": "hi"}).raise_for_status()
        served.process.kill()
        wait_until_refused(served)


def test_relative_paths_mean_the_same_with_workers(tmp_path: Path, chat_flow: Path) -> None:
    env = environment(tmp_path, PYTHONPATH=str(ROOT)) | {"FLOWPOD_DATA_DIR": "data"}
    command = [sys.executable, "-m", "flowpod", "serve", chat_flow.name, "--port", "0", "--workers", "2"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not (found := re.search(r"on (http://\S+)", (tmp_path / "log").read_text())):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        httpx.post(found[1], json={"question": "hi"}).raise_for_status()
    finally:
        process.terminate()
        process.wait(20)
    assert turns(tmp_path) == ["Completed"]
    assert not (tmp_path / "flow" / "data").exists()


def test_health_needs_no_token_under_a_root_path(tmp_path: Path, chat_flow: Path) -> None:
    with start_server(chat_flow, tmp_path, FLOWPOD_ROOT_PATH="/svc", FLOWPOD_TOKENS="t") as served:
        wait_for_status(served, "/readyz", 200)
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        assert httpx.post(served.url, json={"question": "hi"}).status_code == 401
        headers = {"Authorization": "Bearer t"}
        assert httpx.post(served.url, json={"question": "hi"}, headers=headers).status_code == 200


def test_log_lines_carry_the_request_id(tmp_path: Path, model_server: ModelServer) -> None:
    with serving(write_chat_flow(tmp_path / "flow", model_server.url, "fail:500"), tmp_path) as served:
        httpx.post(served.url, json={"question": "hi"}, headers={"X-Request-Id": "find-me"})
        deadline = time.monotonic() + 20
        while not re.search(r"\[find-me\] run \S+ Failed", served.log):
            assert time.monotonic() < deadline, served.log


@pytest.mark.fault("a client leaves while it sends its request")
def test_a_client_that_leaves_while_it_sends_is_no_error(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path) as served:
        address = served.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        httpx.post(served.url, json={"question": "hi"}).raise_for_status()
        assert "Traceback" not in served.log


@pytest.mark.fault("a flow's own thread does not return")
def test_the_end_does_not_wait_for_a_flows_own_threads(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: string, reference: "${stuck.output}"}
    nodes:
    - {name: stuck, type: python, source: {path: stuck.py}}
    """
    code = """
    import asyncio
    import time

    async def invoke():
        await asyncio.to_thread(time.sleep, 600)
    """
    flow = write_flow(tmp_path / "flow", dag, {"stuck.py": code})
    with serving(flow, tmp_path, FLOWPOD_RUN_TIMEOUT_S="0.3") as served:
        assert httpx.post(served.url, json={}).status_code == 424
        assert served.stop(timeout=10) == 0


def test_a_key_with_a_line_break_works_and_is_never_shown(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, connection=", api_key: '${env:MY_KEY}'")
    with serving(flow, tmp_path, MY_KEY="sk-topsecret\n") as served:
        httpx.post(served.url, json={"question": f"key {tmp_path.name}"}).raise_for_status()
    call = next(c for c in model_server.calls if c.question == f"key {tmp_path.name}")
    assert call.headers["authorization"] == "Bearer sk-topsecret"
    done = run_command("serve", str(flow), "--port", "0", env=environment(tmp_path, MY_KEY="sk-top\nsecret"))
    assert done.returncode == 1
    assert "its api_key has characters that a header must not have" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.fault("a question is made to be slow to process")
def test_a_question_of_blank_lines_holds_nobody_up(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:1")
    hostile = ["a" + "\n" * 50_000 + "x", "a" + " " * 50_000 + "x", "\n#" * 50_000, ("\n" + " " * 500) * 200 + ":"]
    with serving(flow, tmp_path) as served:
        for question in hostile:
            httpx.post(served.url, json={"question": question}, timeout=20).raise_for_status()
    with serving(ROOT / "flow", tmp_path) as served:
        for text in ('<passage title="a">' * 40_000, "\n" * 400_000, ". A" * 100_000):
            body = {"messages": [{"role": "system", "content": text}, {"role": "user", "content": "history"}]}
            httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=20).raise_for_status()
