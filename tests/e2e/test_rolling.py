"""The chart's claim for several instances: a rollout under load breaks no request, loses no turn and mixes none up."""

from pathlib import Path

import pymysql
import pytest
from sqlalchemy.engine import make_url

from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.rolling import MODEL, rollout

ROUNDS = 20  # of past turns that a flow gets
TURNS = "SELECT session_id, turn, status, inputs FROM langstudio_chat_history_flow ORDER BY session_id, turn"


def stored(address: str) -> list[tuple[str, int, str, str]]:
    url = make_url(address)
    with (
        pymysql.connect(
            host=url.host, port=url.port or 3306, user=url.username, password=url.password or "", database=url.database
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(TURNS)
        return list(cursor.fetchall())


@pytest.mark.needs("nginx")
@pytest.mark.needs("mariadbd")
async def test_instances_are_replaced_under_load(tmp_path: Path, mysql_url: str, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, MODEL)
    seen = await rollout(flow, tmp_path, mysql_url, instances=3, sessions=6, rounds=1)
    assert seen.failures == []
    assert seen.exits == [0, 0, 0]
    assert min(len(questions) for questions in seen.answered.values()) >= 5
    turns = stored(mysql_url)
    for session, questions in seen.answered.items():
        mine = [turn for turn in turns if turn[0] == session]
        assert [turn[1:3] for turn in mine] == [(number + 1, "Completed") for number in range(len(questions))]
        assert all(question in turn[3] for question, turn in zip(questions, mine, strict=True))
    assert len(turns) == seen.turns
    # What the model was sent of a session: every turn before, in order, wherever they were answered.
    calls = {call.body["messages"][-1]["content"]: call.body["messages"] for call in model_server.calls_of(MODEL)}
    for questions in seen.answered.values():
        for number, question in enumerate(questions):
            sent = [message["content"] for message in calls[question] if message["role"] == "user"]
            assert sent == questions[max(0, number - ROUNDS) : number + 1]
