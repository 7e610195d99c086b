"""The served command on a real socket: timing, clients that leave, shutdown, restart."""

import asyncio
import http.client
import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.support.flows import SESSION, stubborn_flow, write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import (
    serving,
    start_server,
    turns,
    wait_for_status,
    wait_for_turns,
    wait_for_workers,
    wait_until_refused,
)
from tests.support.waiting import wait_until

HEADERS = {"Accept": "text/event-stream"}


def deltas(response: httpx.Response) -> Iterator[str]:
    """Yield the deltas of a simple stream as they arrive."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: ")).get("answer", "")


def test_tokens_arrive_one_by_one(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:10:0.1")
    with (
        serving(flow, tmp_path) as served,
        httpx.stream("POST", served.url, json={"question": "hi"}, headers=HEADERS) as response,
    ):
        arrived = [time.monotonic() for delta in deltas(response) if delta]
    gaps = [later - earlier for earlier, later in pairwise(arrived)]
    assert len(arrived) == 10
    assert sum(gap > 0.03 for gap in gaps) >= 7, gaps


def test_headers_precede_the_first_token_and_pauses_have_heartbeats(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:2:1")
    with serving(flow, tmp_path, FLOWPOD_HEARTBEAT_S="0.2") as served:
        begun = time.monotonic()
        with httpx.stream("POST", served.url, json={"question": "hi"}, headers=HEADERS) as response:
            assert time.monotonic() - begun < 0.9
            text = "".join(response.iter_text())
    assert text.count(": ping\n\n") >= 3
    assert "\r" not in text


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_client_that_leaves_cancels_the_model_call(tmp_path: Path, model_server: ModelServer, accept: str) -> None:
    question = f"leave {accept} {tmp_path.name}"
    code = """
    import time

    async def invoke(question: str):
        import asyncio
        await asyncio.sleep(60)
    """
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "endless")
    if accept == "application/json":
        dag = """
        inputs:
          question: {type: string, is_chat_input: true}
        outputs:
          answer: {type: string, reference: "${wait.output}", is_chat_output: true}
        nodes:
        - {name: wait, type: python, source: {path: wait.py}, inputs: {question: "${inputs.question}"}}
        """
        write_flow(flow, dag, {"wait.py": code})
    with serving(flow, tmp_path) as served:
        try:
            with httpx.stream(
                "POST", served.url, json={"question": question}, headers={"Accept": accept}, timeout=0.5
            ) as response:
                next(delta for delta in deltas(response) if delta)
        except httpx.ReadTimeout:
            assert accept == "application/json"
        if accept == "text/event-stream":
            call = next(c for c in model_server.calls if c.question == question)
            assert call.over.wait(10)
            assert call.ended == "left"
        wait_for_turns(tmp_path, ["Canceled"])
        wait_until(lambda: "Canceled" in served.log, "the log to say so")
        assert httpx.get(f"{served.url}/healthz").status_code == 200


def test_a_restart_keeps_the_conversation(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    headers = {"Chat-Session-Id": SESSION}
    one, two = f"one {tmp_path.name}", f"two {tmp_path.name}"
    with serving(chat_flow, tmp_path) as served:
        httpx.post(served.url, json={"question": one}, headers=headers).raise_for_status()
        served.process.kill()
    with serving(chat_flow, tmp_path) as served:
        httpx.post(served.url, json={"question": two}, headers=headers).raise_for_status()
    sent = next(c for c in model_server.calls if c.question == two).body["messages"]
    assert [message["content"] for message in sent[1:]] == [one, f"You said: {one}", two]


def test_sigterm_drains_then_lets_streams_end(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:30:0.1")
    with serving(flow, tmp_path, FLOWPOD_DRAIN_DELAY_S="1") as served:
        with httpx.stream("POST", served.url, json={"question": "hi"}, headers=HEADERS) as response:
            frames = deltas(response)
            received = [next(frames), next(frames)]
            served.process.send_signal(signal.SIGTERM)
            wait_for_status(served, "/readyz", 503)
            # Still serving: a load balancer has not turned away yet.
            late = httpx.get(f"{served.url}/healthz")
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            assert httpx.post(served.url, json={}).status_code == 400
            wait_until_refused(served)
            received += frames
        assert "".join(received) == "".join(f"w{number} " for number in range(30))
        assert served.process.wait(15) == 0
    assert turns(tmp_path) == ["Completed"]


def test_after_the_grace_runs_are_cancelled_and_say_so(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "endless")
    with serving(flow, tmp_path, FLOWPOD_GRACE_S="0.5") as served:
        with httpx.stream("POST", f"{served.url}/run", json={"inputs": {"question": "hi"}}) as response:
            lines = response.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            last = [json.loads(line.removeprefix("data: ")) for line in lines if line][-1]
        assert (last["event"], last["flow_run_info"]["status"]) == ("RunTerminated", "Canceled")
        assert "shutting down" in last["flow_run_info"]["error"]["message"]
        assert served.process.wait(15) == 0
    assert turns(tmp_path) == ["Canceled"]


def test_a_second_signal_hurries(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "endless")
    with serving(flow, tmp_path, FLOWPOD_DRAIN_DELAY_S="60", FLOWPOD_GRACE_S="60") as served:
        with httpx.stream("POST", f"{served.url}/run", json={"inputs": {"question": "hi"}}) as response:
            lines = response.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGINT)
            wait_until_refused(served)
            served.process.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        assert '"status":"Canceled"' in last
        assert served.process.wait(15) == 0


def test_exit_does_not_wait_for_a_stuck_thread(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: string, reference: "${stuck.output}"}
    nodes:
    - {name: stuck, type: python, source: {path: stuck.py}}
    """
    code = """
    import time

    def invoke():
        time.sleep(600)
    """
    flow = write_flow(tmp_path / "flow", dag, {"stuck.py": code})
    with serving(flow, tmp_path, FLOWPOD_RUN_TIMEOUT_S="0.3") as served:
        response = httpx.post(served.url, json={})
        assert (response.status_code, response.json()["error"]["code"]) == (424, "run_timeout")
        assert served.stop(timeout=10) == 0


def test_exit_does_not_wait_for_a_task_that_refuses_to_be_cancelled(tmp_path: Path) -> None:
    with serving(stubborn_flow(tmp_path / "flow"), tmp_path) as served:
        assert httpx.post(served.url, json={"wait": False}).json() == {"out": "done"}
        assert served.stop(timeout=10) == 0


async def test_two_hundred_streams_at_once_all_end(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:20:0.02")
    expected = "".join(f"w{number} " for number in range(20))

    async def ask(client: httpx.AsyncClient, number: int) -> str:
        headers = {**HEADERS, "Chat-Session-Id": f"{number:032}"}
        async with client.stream("POST", "/", json={"question": "hi"}, headers=headers) as response:
            lines = [line async for line in response.aiter_lines()]
            assert response.status_code == 200, lines
        return "".join(json.loads(line.removeprefix("data: "))["answer"] for line in lines if line.startswith("data: "))

    with serving(flow, tmp_path) as served:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=60) as client:
            answers = await asyncio.gather(*(ask(client, number) for number in range(200)))
        assert answers == [expected] * 200
        assert turns(tmp_path) == ["Completed"] * 200


def test_several_workers_share_the_port_and_the_history(tmp_path: Path, chat_flow: Path) -> None:
    with start_server(chat_flow, tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        for number in range(20):
            headers = {"Chat-Session-Id": SESSION}
            httpx.post(served.url, json={"question": str(number)}, headers=headers).raise_for_status()
        assert turns(tmp_path) == ["Completed"] * 20
        assert served.stop() == 0
    assert served.log.count("serving flow 'flow'") == 2


def test_a_connection_that_was_idle_for_a_while_takes_a_request(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path) as served:
        connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
        for pause_s in (0, 6):  # uvicorn by itself closes it after 5 s
            time.sleep(pause_s)
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b'{"status":"ok"}')
            assert connection.sock is not None
        connection.close()
