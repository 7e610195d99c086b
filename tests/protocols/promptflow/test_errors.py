"""Failures of runs on promptflow's `/score`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.protocols.native.test_conversations import new
from tests.support.flows import client_of, post, service_of, write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.score import EITHER, STREAM, app_of, caller_of, echo_flow, error_of, frames


@pytest.mark.parametrize("headers", [{}, STREAM, EITHER])
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_failing_node_is_400_with_its_exception(tmp_path: Path, headers: dict[str, str], kind: str) -> None:
    code = f"{kind} echo(text):\n    return {{}}[text]\n"
    response = await post(echo_flow(tmp_path, code), "/score", {"text": "hi"}, headers=headers)
    assert response.status_code == 400
    assert (
        response.text == '{"error":{"code":"UserError","message":"Execution failure in \'echo\': (KeyError) \'hi\'"}}'
    )


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_a_failing_model_sets_the_status(
    tmp_path: Path, model_server: ModelServer, headers: dict[str, str]
) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "fail:503")) as client:
        response = await client.post("/score", json={"question": "hi"}, headers=headers)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "UserError"
    assert error["message"].startswith("Execution failure in 'reply': (NodeError) ")
    assert "503" in error["message"]


BREAKS = """async def echo(text):
    import asyncio
    yield text
    await asyncio.sleep(0.05)
    raise ValueError("no more")
"""


async def test_a_failure_after_the_first_byte_is_in_the_stream(tmp_path: Path) -> None:
    response = await post(echo_flow(tmp_path, BREAKS), "/score", {"text": "hi"}, headers=STREAM)
    assert response.status_code == 200
    *deltas, last = frames(response)
    assert deltas == [{"out": ""}, {"out": "hi"}]
    assert last == {"error": {"code": "UserError", "message": "Execution failure in 'echo': (ValueError) no more"}}


async def test_a_run_that_times_out_is_a_user_error(tmp_path: Path) -> None:
    code = "async def echo(text):\n    import asyncio\n    await asyncio.sleep(60)\n"
    response = await post(echo_flow(tmp_path, code), "/score", {"text": "hi"}, run_timeout_s=0.1)
    assert response.status_code == 400
    assert error_of(response)["message"].startswith("the run took longer than 0.1 s")


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_a_run_canceled_at_exit_is_424(
    tmp_path: Path, model_server: ModelServer, headers: dict[str, str]
) -> None:
    """promptflow responds with 500, but clients retry a 500 and the flow has run."""
    flow, question = write_chat_flow(tmp_path, model_server.url, "hang"), new("ended")
    async with service_of(flow) as service, caller_of(service) as client:
        asking = asyncio.create_task(client.post("/score", json={"question": question}, headers=headers))
        while not any(call.question == question for call in model_server.calls):
            await asyncio.sleep(0.01)
        service.cancel_all("the service is shutting down")
        response = await asking
    assert response.status_code == 424
    expected = "the run was cancelled: the service is shutting down"
    assert error_of(response) == {"code": "SystemError", "message": expected}


async def test_a_client_that_disconnects_before_the_first_byte_cancels(
    tmp_path: Path, model_server: ModelServer
) -> None:
    question = new("left")
    sent = iter([{"type": "http.request", "body": f'{{"question": "{question}"}}'.encode(), "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in sent:
            return message
        while not (calls := [c for c in model_server.calls if c.question == question]):
            await asyncio.sleep(0.01)
        assert not calls[0].over.is_set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answered.append(message)

    answered: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "http_version": "1.1"}
    headers = [(b"host", b"localhost"), (b"accept", b"text/event-stream")]
    async with service_of(write_chat_flow(tmp_path, model_server.url, "hang")) as service:
        await app_of(service)({**scope, "headers": headers}, receive, send)
        await service.finish(grace_s=60)
    assert answered[0]["status"] == 424


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_a_dropped_request_cancels_its_run(
    tmp_path: Path, model_server: ModelServer, headers: dict[str, str]
) -> None:
    flow, question = write_chat_flow(tmp_path, model_server.url, "hang"), new("dropped")
    async with service_of(flow) as service, caller_of(service) as client:
        asking = asyncio.create_task(client.post("/score", json={"question": question}, headers=headers))
        while not any(call.question == question for call in model_server.calls):
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(service.finish(grace_s=600), 30)  # at once, as no run is left to wait for
