"""What the start of a run checks and reads, recorded or not."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowpod.background.recording import AttachedRecording, BackgroundRecording
from flowpod.engine.request import RunRequest
from flowpod.errors import FlowpodError, InvalidRequest, NotFound, TooManyRuns, Unavailable
from tests.support.background import submit, wait_for, write_sleepy_flow
from tests.support.flows import SESSION, client_of, service_of
from tests.support.model_server import ModelServer
from tests.support.waiting import until

SESSION_HEADER = {"Chat-Session-Id": SESSION}
ATTACHED, BACKGROUND = AttachedRecording({"kind": "run"}), BackgroundRecording({"kind": "run"})


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the statements that SQLite executes on connections opened during the test."""
    executed: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(executed.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    return executed


async def ask(client: httpx.AsyncClient, how: str, question: str) -> None:
    """Ask in the session, and wait for the end of the run."""
    if how == "background":
        await wait_for(client, await submit(client, {"question": question}, **SESSION_HEADER))
        return
    path, body = ("/v1/responses", {"input": question}) if how == "response" else ("/", {"question": question})
    assert (await client.post(path, json=body, headers=SESSION_HEADER)).status_code == 200


@pytest.mark.parametrize("how", ["not recorded", "response", "background"])
async def test_a_run_reads_its_history_once(tmp_path: Path, chat_flow: Path, how: str, statements: list[str]) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        await ask(client, "not recorded", "first")
        statements.clear()
        await ask(client, how, f"second {tmp_path.name}")
    reads = [one for one in statements if one.startswith("SELECT langstudio_chat_history_test.inputs")]
    assert len(reads) == 1, statements


class CountedInputs(dict[str, Any]):
    """Inputs that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


@pytest.mark.parametrize("recording", [None, ATTACHED, BACKGROUND], ids=["not recorded", "attached", "background"])
async def test_inputs_are_validated_once(
    tmp_path: Path, recording: AttachedRecording | BackgroundRecording | None
) -> None:
    inputs, log = CountedInputs(name="a", log=str(tmp_path / "log")), tmp_path / "log"
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        await service.start(RunRequest(inputs=inputs, session_id=SESSION, assigned=True), recording)
        await until(lambda: log.exists())
    assert inputs.passes == 1


async def test_a_waiting_run_reads_its_history_late(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    questions = [f"{n} {tmp_path.name}" for n in "ab"]
    async with client_of(chat_flow, data=tmp_path / "data", max_background_runs=1) as client:
        ids = [await submit(client, {"question": question}, **SESSION_HEADER) for question in questions]
        assert (await wait_for(client, ids[1]))["status"] == "Completed"
    call = next(call for call in model_server.calls if call.question == questions[1])
    texts = [message["content"] for message in call.body["messages"][1:]]
    assert texts == [questions[0], f"You said: {questions[0]}", questions[1]]


@pytest.mark.parametrize("recording", [ATTACHED, BACKGROUND], ids=["attached", "background"])
async def test_nothing_is_recorded_of_a_refused_request(
    tmp_path: Path, chat_flow: Path, recording: AttachedRecording | BackgroundRecording
) -> None:
    async def assert_refused(refusal: type[FlowpodError], **request: Any) -> None:
        with pytest.raises(refusal):
            await service.start(RunRequest(**{"inputs": {"question": "x"}, "session_id": SESSION} | request), recording)

    async with service_of(chat_flow, data=tmp_path, max_runs=1) as service:
        run = await service.start(RunRequest({"question": "x"}, SESSION, user_id="ann"))
        if recording is ATTACHED:
            await assert_refused(TooManyRuns)
        await run.finished()
        await assert_refused(InvalidRequest, inputs={"query": "x"})
        await assert_refused(NotFound, user_id="bob")
        service.closing = True
        await assert_refused(Unavailable)
    database = sqlite3.connect(tmp_path / "chat_history.db")
    assert database.execute("SELECT COUNT(*) FROM langstudio_run_test").fetchone() == (0,)
    assert database.execute("SELECT COUNT(*) FROM langstudio_chat_history_test").fetchone() == (1,)
    database.close()
