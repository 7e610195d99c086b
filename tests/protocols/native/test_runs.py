"""Background runs as clients of `/run` and `/runs` see them; two instances share a database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.background import PATIENCE_S, seen_in, state, submit, wait_for, write_sleepy_flow
from tests.support.flows import SESSION, client_of
from tests.support.model_server import ModelServer
from tests.support.waiting import until

Pair = tuple[httpx.AsyncClient, httpx.AsyncClient]
UNKNOWN = "00000000-0000-4000-8000-000000000000"
ANN, BOB = {"Chat-User-Id": "ann"}, {"Chat-User-Id": "bob"}


@asynccontextmanager
async def instances(folder: Path, history_url: str, **settings: Any) -> AsyncIterator[Pair]:
    flow = write_sleepy_flow(folder / "flow")
    async with (
        client_of(flow, database=history_url, **settings) as one,
        client_of(flow, database=history_url, **settings) as two,
    ):
        yield one, two


async def events(client: httpx.AsyncClient, run_id: str, after: int | None = None) -> httpx.Response:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    return await client.get(f"/runs/{run_id}/events", headers=headers)


async def test_any_instance_shows_a_run(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        run_id = await submit(one, {"name": "a", "seconds": 0.5})
        begun = await wait_for(two, run_id, "Running")
        assert begun["finished_at"] is None
        assert begun["flow_run_info"]["status"] == "Running"
        ended = await wait_for(two, run_id)
        assert ended == await state(one, run_id)
        assert (ended["status"], ended["outputs"]) == ("Completed", {"out": "a"})
        assert ended["created_at"] < ended["started_at"] < ended["finished_at"]
        assert [node["status"] for node in ended["node_run_infos"]] == ["Completed"]
        streams = [(await events(client, run_id)).text for client in (one, two)]
    assert streams[0] == streams[1]
    seen = seen_in(streams[0])
    assert [event.id for event in seen] == list(range(1, ended["last_event_id"] + 1))
    assert [event.data["event"] for event in seen] == [
        "RunStarted",
        "NodeUpdated",
        "NodeUpdated",
        "RunOutput",
        "RunTerminated",
    ]


async def test_a_reader_resumes_after_its_last_event(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        run_id = await submit(one, {"name": "a", "seconds": 0.5})
        async with asyncio.timeout(PATIENCE_S):
            while (await state(one, run_id))["last_event_id"] < 2:
                await asyncio.sleep(0.05)
        followed = await asyncio.gather(events(one, run_id), events(two, run_id, 2))
        last = (await state(one, run_id))["last_event_id"]
        active = await submit(one, {"name": "a", "seconds": 60})
        beyond = [await events(two, active, 100), await events(two, run_id, last + 1)]
        over = await events(two, run_id, last)
        wrong = [await client.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": "x"}) for client in (one, two)]
    assert [[event.id for event in seen_in(stream.text)] for stream in followed] == [[1, 2, 3, 4, 5], [3, 4, 5]]
    assert (over.status_code, over.content) == (204, b"")
    assert [(answer.status_code, answer.json()["error"]["param"]) for answer in (*wrong, *beyond)] == [
        (400, "Last-Event-ID")
    ] * 4


async def test_a_failed_run_says_why(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        ended = await wait_for(two, await submit(one, {"name": "bad"}))
    assert (ended["status"], ended["error"]["code"]) == ("Failed", "node_failed")
    assert ended["flow_run_info"]["error"] == ended["error"]


async def test_invalid_requests_are_refused_at_submission(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, _):
        bodies: list[dict[str, Any]] = [
            {"inputs": {"nome": "a"}, "background": True},
            {"inputs": {"name": "a"}, "background": True, "stream": True},
            {"inputs": {"name": "a"}, "background": "perhaps"},
        ]
        answers = [await one.post("/run", json=body) for body in bodies]
        without = await one.post("/run", json={"inputs": {"name": "a"}}, headers={"Idempotency-Key": "k"})
        bad_key = await one.post("/run", json=bodies[0], headers={"Idempotency-Key": " "})
    assert [answer.json()["error"]["param"] for answer in answers] == ["nome", "stream", "background"]
    assert [answer.status_code for answer in (*answers, without, bad_key)] == [400] * 5
    assert {answer.json()["error"]["param"] for answer in (without, bad_key)} == {"Idempotency-Key"}


async def test_response_config_applies_to_state_and_events(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        body = {
            "inputs": {"name": "a"},
            "background": True,
            "response_config": {"include_node_output": True, "exclude_nodes": []},
        }
        run_id = (await one.post("/run", json=body)).json()["run_id"]
        assert (await wait_for(two, run_id))["node_run_infos"][0]["output"] == "a"
        body["response_config"] = {"exclude_nodes": ["sleep"]}
        run_id = (await one.post("/run", json=body)).json()["run_id"]
        assert (await wait_for(two, run_id))["node_run_infos"] == []
        seen = seen_in((await events(two, run_id)).text)
    assert [(event.id, event.data["event"]) for event in seen] == [
        (1, "RunStarted"),
        (4, "RunOutput"),
        (5, "RunTerminated"),
    ]


async def test_requests_with_one_key_share_a_run(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        log = tmp_path / "log"
        inputs = {"name": "a", "log": str(log)}
        tries = [submit(client, inputs, **{"Idempotency-Key": "k"}) for client in (one, two) * 5]
        ids = await asyncio.gather(*tries)
        assert len(set(ids)) == 1
        await wait_for(two, ids[0])
        assert await submit(two, inputs, **{"Idempotency-Key": "k"}) == ids[0]
        assert log.read_text() == "a\n"
        assert await submit(two, inputs, **{"Idempotency-Key": "k", **ANN}) != ids[0]
        body = {"inputs": inputs | {"name": "b"}, "background": True}
        reused = await two.post("/run", json=body, headers={"Idempotency-Key": "k"})
    assert (reused.status_code, reused.json()["error"]["code"]) == (400, "idempotency_key_reused")


@pytest.mark.parametrize("asked", [0, 1], ids=["its own instance", "another one"])
async def test_a_background_run_is_cancelled(tmp_path: Path, history_url: str, asked: int) -> None:
    async with instances(tmp_path, history_url) as pair:
        run_id = await submit(pair[0], {"name": "a", "seconds": 60})
        await wait_for(pair[1], run_id, "Running")
        answer = await pair[asked].post(f"/runs/{run_id}/cancel")
        assert (answer.status_code, answer.json()) == (202, {"run_id": run_id, "status": "Canceling"})
        ended = await wait_for(pair[1], run_id)
        again = await pair[1].post(f"/runs/{run_id}/cancel")
    assert (ended["status"], ended["error"]["code"]) == ("Canceled", "canceled")
    assert (again.status_code, again.json()) == (200, {"run_id": run_id, "status": "Canceled"})


@pytest.mark.parametrize("asked", [0, 1], ids=["its own instance", "another one"])
async def test_a_waiting_run_is_cancelled_and_never_starts(tmp_path: Path, history_url: str, asked: int) -> None:
    async with instances(tmp_path, history_url, max_background_runs=1) as pair:
        log = tmp_path / "log"
        first = await submit(pair[0], {"name": "first", "seconds": 60})
        waits = await submit(pair[0], {"name": "waits", "log": str(log)})
        assert (await state(pair[1], waits))["status"] == "Queued"
        assert (await pair[asked].post(f"/runs/{waits}/cancel")).status_code == 202
        assert (await wait_for(pair[1], waits))["status"] == "Canceled"
        await pair[0].post(f"/runs/{first}/cancel")
        await wait_for(pair[0], first)
    assert not log.exists()


@pytest.mark.parametrize("asked", [0, 1], ids=["its own instance", "another one"])
async def test_a_foreground_run_is_cancelled_by_its_id(tmp_path: Path, history_url: str, asked: int) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        body = {"inputs": {"name": "a", "seconds": 60}, "stream": False}
        reading = asyncio.create_task(one.post("/run", json=body, headers=ANN))
        run_id = await running_id(one)
        refused = await (one, two)[asked].post(f"/runs/{run_id}/cancel", headers=BOB)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "run_not_found")
        assert (await (one, two)[asked].post(f"/runs/{run_id}/cancel", headers=ANN)).status_code == 202
        async with asyncio.timeout(PATIENCE_S):
            answer = await reading
    assert answer.json()["flow_run_info"]["status"] == "Canceled"
    assert answer.json()["error"]["message"] == "the run was cancelled: a client requested it"


async def running_id(client: httpx.AsyncClient) -> str:
    """Return the id of the run that is in progress at a client's instance."""
    service = client._transport.app._service  # type: ignore[attr-defined]
    await until(lambda: service.runs)
    return str(next(iter(service.runs)))


async def test_an_unknown_run_is_not_found(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, _):
        answers = [
            await one.get(f"/runs/{UNKNOWN}"),
            await one.get(f"/runs/{UNKNOWN}/events"),
            await one.post(f"/runs/{UNKNOWN}/cancel"),
            await one.get("/runs/x"),
            await one.post("/runs/x/cancel"),
        ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(404, "run_not_found")] * 5


async def test_a_user_sees_only_their_own_runs(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url) as (one, two):
        run_id = await submit(one, {"name": "a", "seconds": 60}, **ANN)
        for path in (f"/runs/{run_id}", f"/runs/{run_id}/events"):
            assert (await two.get(path, headers=BOB)).status_code == 404
        assert (await two.post(f"/runs/{run_id}/cancel", headers=BOB)).status_code == 404
        assert (await two.get(f"/runs/{run_id}", headers=ANN)).json()["user_id"] == "ann"
        assert (await two.post(f"/runs/{run_id}/cancel", headers=ANN)).status_code == 202
        assert (await wait_for(two, run_id))["status"] == "Canceled"


async def test_requests_beyond_the_queue_limit_are_refused(tmp_path: Path, history_url: str) -> None:
    async with instances(tmp_path, history_url, max_background_runs=1, background_queue=2) as (one, two):
        ids = [await submit(one, {"name": f"r{n}", "seconds": 60}, **{"Idempotency-Key": f"{n}"}) for n in range(3)]
        refused = await one.post("/run", json={"inputs": {"name": "r3"}, "background": True})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert await submit(one, {"name": "r0", "seconds": 60}, **{"Idempotency-Key": "0"}) == ids[0]
        await submit(two, {"name": "elsewhere"})
        assert (await one.post("/run", json={"inputs": {"name": "x"}, "stream": False})).status_code == 200


async def test_a_shutdown_cancels_running_and_waiting_runs(tmp_path: Path, history_url: str) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    async with client_of(flow, database=history_url) as two:
        async with client_of(flow, database=history_url, max_background_runs=1) as one:
            runs = await submit(one, {"name": "runs", "seconds": 60})
            waits = await submit(one, {"name": "waits"})
            await wait_for(one, runs, "Running")
            following = asyncio.create_task(events(one, runs))
            await asyncio.sleep(0.5)  # it has begun to read
        assert seen_in((await following).text)[-1].data["event"] == "RunTerminated"
        ended = [await state(two, run_id) for run_id in (runs, waits)]
    assert [run["status"] for run in ended] == ["Canceled", "Canceled"]
    assert all("the service is shutting down" in run["error"]["message"] for run in ended)
    assert "had not started" in ended[1]["error"]["message"]


async def test_without_a_database_there_are_no_background_runs(tmp_path: Path) -> None:
    async with client_of(write_sleepy_flow(tmp_path / "flow")) as client:
        submitted = await client.post("/run", json={"inputs": {"name": "a"}, "background": True})
        asked = [await client.get(f"/runs/{UNKNOWN}"), await client.post(f"/runs/{UNKNOWN}/cancel")]
        running = asyncio.create_task(client.post("/run", json={"inputs": {"name": "a", "seconds": 60}}))
        assert (await client.post(f"/runs/{await running_id(client)}/cancel")).status_code == 202
        assert '"status":"Canceled"' in (await running).text
    assert (submitted.status_code, submitted.json()["error"]["code"]) == (400, "no_recorded_runs")
    assert "FLOWPOD_HISTORY is off" in submitted.json()["error"]["message"]
    assert [answer.status_code for answer in asked] == [404, 404]


async def test_a_background_run_is_a_turn_of_its_session(
    tmp_path: Path, chat_flow: Path, history_url: str, model_server: ModelServer
) -> None:
    async with client_of(chat_flow, database=history_url) as client:
        for question in ("first", f"second {tmp_path.name}"):
            run_id = await submit(client, {"question": question}, **{"Chat-Session-Id": SESSION})
            await wait_for(client, run_id)
        turns = (await client.get(f"/chat/sessions/{SESSION}/turns")).json()["data"]
        assert turns[-1]["run_id"] == run_id
        assert (await client.delete(f"/chat/sessions/{SESSION}")).status_code == 200
        assert (await client.get(f"/runs/{run_id}")).status_code == 404
    call = next(call for call in model_server.calls if call.question == f"second {tmp_path.name}")
    assert [message["content"] for message in call.body["messages"][1:]] == [
        "first",
        "You said: first",
        f"second {tmp_path.name}",
    ]
