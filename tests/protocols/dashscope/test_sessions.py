"""Sessions of DashScope's clients, and what is stored of their requests."""

import logging
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.tracing import Tracing
from tests.support.conversations import write_talking_flow
from tests.support.dashscope_flow import write_dashscope_flow
from tests.support.flows import client_of, post, problems_of, write_flow
from tests.support.mariadb import running_mariadb
from tests.support.model_server import ModelServer

PATH = "/api/v1/apps/a/completion"


async def ask(client: httpx.AsyncClient, prompt: str, session_id: str = "", **more: Any) -> tuple[str, str]:
    """Return the text and the session id of a response."""
    session = {"session_id": session_id} if session_id else {}
    headers = more.pop("headers", {})
    response = await client.post(PATH, json={"input": {"prompt": prompt, **session, **more}}, headers=headers)
    assert response.status_code == 200, response.text
    output = response.json()["output"]
    assert response.headers["chat-session-id"] == output["session_id"]
    return output["text"], output["session_id"]


def age(data: Path, session_id: str) -> None:
    """Set the last DashScope request of a stored session to two hours ago."""
    used = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    database = sqlite3.connect(data / "chat_history.db")
    with database:
        changed = database.execute(
            "UPDATE langstudio_chat_variable_test SET value = ? WHERE session_id = ? AND name = 'dashscope.used_at'",
            (f'"{used}"', session_id),
        )
        assert changed.rowcount == 1
    database.close()


def stored_in(data: Path) -> bytes:
    return b"".join(path.read_bytes() for path in data.glob("chat_history.db*"))


async def test_a_session_continues_across_protocols(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        first, session = await ask(client, "one")
        second = await ask(client, "two", session)
        third = (await client.post("/", json={"question": "three"}, headers={"Chat-Session-Id": session})).json()
        fourth = await ask(client, "four", headers={"Chat-Session-Id": session})
    assert re.fullmatch("[0-9a-f]{32}", session)
    assert [first, second, third["answer"], fourth] == [
        "after 0 turns: one ",
        ("after 1 turns: two ", session),
        "after 2 turns: three ",
        ("after 3 turns: four ", session),
    ]


async def test_a_session_expires_after_an_hour_for_dashscope_only(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        _, session = await ask(client, "one")
        age(tmp_path, session)
        text, new = await ask(client, "two", session)
        again = await ask(client, "three", new)
        age(tmp_path, session)
        other = await client.post("/", json={"question": "four"}, headers={"Chat-Session-Id": session})
    assert (text, again) == ("after 0 turns: two ", ("after 1 turns: three ", new))
    assert re.fullmatch("[0-9a-f]{32}", new)
    assert new != session
    assert other.json() == {"answer": "after 1 turns: four "}


async def test_only_dashscope_requests_extend_a_dashscope_session(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        _, session = await ask(client, "one")
        age(tmp_path, session)
        header = {"Chat-Session-Id": session}
        elsewhere = await client.post("/", json={"question": "two"}, headers=header)
        text, new = await ask(client, "three", session)
        _, other = await ask(client, "four", headers=header)
        session_body = (await client.get(f"/chat/sessions/{session}")).json()
    assert elsewhere.json() == {"answer": "after 1 turns: two "}
    assert text == "after 0 turns: three "
    assert len({session, new, other}) == 3
    assert session_body["variables"] == {}


async def test_a_session_of_another_protocol_can_be_continued(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        header = {"Chat-Session-Id": "e" * 32}
        await client.post("/", json={"question": "one"}, headers=header)
        assert await ask(client, "two", "e" * 32) == ("after 1 turns: two ", "e" * 32)
        assert await ask(client, "three", headers=header) == ("after 2 turns: three ", "e" * 32)


async def test_a_failed_run_extends_its_session(tmp_path: Path) -> None:
    async with client_of(write_flow(tmp_path / "flow", PLUGIN, {"ask.py": ASK}), data=tmp_path) as client:
        content = {"input": {"prompt": "fail", "session_id": "d" * 32, "biz_params": BIZ}}
        assert (await client.post(PATH, json=content)).status_code == 500
        age(tmp_path, "d" * 32)


async def test_the_lifetime_of_a_session_is_a_setting(tmp_path: Path) -> None:
    flow = write_talking_flow(tmp_path / "flow")
    async with client_of(flow, data=tmp_path, dashscope_session_s=3 * 3600) as client:
        _, session = await ask(client, "one")
        age(tmp_path, session)
        assert await ask(client, "two", session) == ("after 1 turns: two ", session)


async def test_an_unknown_session_id_starts_that_session(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        assert await ask(client, "one", "f" * 32) == ("after 0 turns: one ", "f" * 32)
        assert await ask(client, "two", "f" * 32) == ("after 1 turns: two ", "f" * 32)
    async with client_of(tmp_path / "flow") as client:  # without any history
        assert await ask(client, "one", "f" * 32) == ("after 0 turns: one ", "f" * 32)


async def test_the_clients_own_history_replaces_the_stored_one(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        _, session = await ask(client, "one")
        text, _ = await ask(client, "three", session, history=[{"user": "a", "bot": "1"}, {"user": "b", "bot": "2"}])
        alone, _ = await ask(client, "", session, messages=[{"role": "user", "content": "four"}])
        stored = await client.get(f"/chat/sessions/{session}")
    assert (text, alone) == ("after 2 turns: three ", "after 0 turns: four ")
    assert [turn["inputs"]["question"] for turn in stored.json()["turns"]["data"]] == ["one", "three", "four"]


async def test_another_users_session_is_not_found(tmp_path: Path) -> None:
    async with client_of(write_talking_flow(tmp_path / "flow"), data=tmp_path) as client:
        _, session = await ask(client, "one", headers={"Chat-User-Id": "ann"})
        content = {"input": {"prompt": "two", "session_id": session}}
        response = await client.post(PATH, json=content, headers={"Chat-User-Id": "bob"})
    assert (response.status_code, response.json()["code"]) == (404, "NotFound")


@pytest.mark.needs("mariadbd")
async def test_an_unavailable_history_fails_stored_sessions_only(tmp_path: Path) -> None:
    flow = write_talking_flow(tmp_path / "flow")
    with running_mariadb(tmp_path) as server:
        async with client_of(flow, database=server.new_database("d"), history_write_timeout_s=0.1) as client:
            _, session = await ask(client, "one")
            server.stop()
            refused = await client.post(PATH, json={"input": {"prompt": "two", "session_id": session}})
            own, _ = await ask(client, "two", session, history=[{"user": "a", "bot": "1"}])
            new, _ = await ask(client, "three")
    assert (refused.status_code, refused.json()["code"]) == (503, "ServiceUnavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert (own, new) == ("after 1 turns: two ", "after 0 turns: three ")


BIZ = {
    "user_defined_params": {"your_plugin_code": {"article_index": "S3CRET-PARAM"}},
    "user_defined_tokens": {"your_plugin_code": {"user_token": "S3CRET-TOKEN"}},
}
PLUGIN = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, reference: "${ask.output}", is_chat_output: true}
nodes:
- name: ask
  type: python
  source: {path: ask.py}
  retry: {max: 1}
  inputs:
    question: ${inputs.question}
    params: ${sys.plugin_params}
    token: ${sys.plugin_tokens.your_plugin_code.user_token}
"""
ASK = """
def invoke(question: str, params: dict, token: str):
    assert (params["your_plugin_code"]["article_index"], token) == ("S3CRET-PARAM", "S3CRET-TOKEN")
    if question == "fail":
        raise ValueError("no luck")
    if question == "tell":
        raise ValueError(f"no luck with {token}")
    return "done"
"""


@pytest.mark.parametrize("question", ["hi", "fail"])
@pytest.mark.parametrize("headers", [{}, {"X-DashScope-SSE": "enable"}])
async def test_plugin_tokens_are_redacted_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, question: str, headers: dict[str, str]
) -> None:
    caplog.set_level(logging.DEBUG)
    exporter, provider = InMemorySpanExporter(), SpanProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    flow = write_flow(tmp_path / "flow", PLUGIN, {"ask.py": ASK})
    content = {
        "input": {"prompt": question, "biz_params": BIZ},
        "parameters": {"has_thoughts": True, "flow_stream_mode": "full_thoughts"},
    }
    response = await post(flow, PATH, content, headers=headers, data=tmp_path, tracing=Tracing(provider))
    assert ("done" if question == "hi" else "no luck") in response.text
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert any("***" in text for text in spans)
    stored = stored_in(tmp_path)
    assert question.encode() in stored
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for where in (*spans, logged, stored.decode("latin-1"), response.text):
        assert "S3CRET" not in where


async def test_a_token_in_an_exception_is_redacted(tmp_path: Path) -> None:
    exporter, provider = InMemorySpanExporter(), SpanProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    flow = write_flow(tmp_path / "flow", PLUGIN, {"ask.py": ASK})
    response = await post(flow, PATH, {"input": {"prompt": "tell", "biz_params": BIZ}}, tracing=Tracing(provider))
    assert "no luck with ***" in response.text
    assert "S3CRET" not in response.text
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "no luck with ***" in spans
    assert "S3CRET" not in spans


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ('outputs: {answer: {reference: "${sys.plugin_tokens}"}}', "outputs.answer.reference"),
        ('outputs: {answer: {reference: {a: "${sys.plugin_params.p.q}"}}}', "outputs.answer.reference"),
        ("", "nodes[0].inputs.t"),
    ],
)
def test_only_python_nodes_get_the_callers_secrets(tmp_path: Path, place: str, text: str) -> None:
    value = "x" if place else "${sys.plugin_tokens.p.user_token}"
    dag = f'{place}\nnodes:\n- {{name: n, type: template, template: "{{{{ t }}}}", inputs: {{t: "{value}"}}}}\n'
    problems = [problem for problem in problems_of(write_flow(tmp_path, dag)) if problem.severity == "error"]
    assert [problem.key for problem in problems] == [text]
    assert "is a secret of the caller's; only the inputs of python and custom_llm nodes" in problems[0].message


def test_unknown_sys_variables_are_reported(tmp_path: Path) -> None:
    dag = 'nodes:\n- {name: n, type: template, template: "{{ t }}", inputs: {t: "${sys.plugins.p}"}}\n'
    (problem,) = problems_of(write_flow(tmp_path, dag))
    assert "there is no such variable; sys has session_id" in problem.message
    assert problem.message.endswith("rag_options, plugin_params, plugin_tokens")


async def test_rag_options_can_be_used_in_every_node(tmp_path: Path) -> None:
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
    outputs:
      answer:
        type: object
        reference: {tags: "${sys.rag_options.tags}", deep: "${sys.rag_options.a.b}", as: "${n.output}"}
        is_chat_output: true
    nodes:
    - {name: n, type: template, inputs: {tag: "${sys.rag_options.tags[0]}"}, template: "{{ tag }}"}
    """
    content = {"input": {"prompt": "hi"}, "parameters": {"rag_options": {"tags": ["phone"]}}}
    response = await post(write_flow(tmp_path, dag), PATH, content)
    assert response.json()["output"]["text"] == '{"tags":["phone"],"deep":null,"as":"phone"}'


async def test_two_servers_of_one_flow_share_their_sessions(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_dashscope_flow(tmp_path / "flow", model_server.url)
    async with client_of(flow, data=tmp_path) as client:
        _, session = await ask(client, "one")
    async with client_of(flow, data=tmp_path) as client:
        await ask(client, "two", session)
    messages = model_server.calls[-1].body["messages"]
    assert [message["content"] for message in messages[1:]] == ["one", "You said: one", "two"]
