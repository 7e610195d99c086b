"""`GET /traces`, `/traces/{id}` and the commands that print the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import Served, run_command, serving

SESSION = "s" * 32
FLOW = """
inputs:
  question: {type: string, is_chat_input: true}
  chat_history: {type: list, default: [], is_chat_history: true}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
nodes:
- {name: shout, type: python, source: {path: shout.py}, inputs: {text: "${inputs.question}"}}
- name: reply
  type: llm
  source: {type: code, path: reply.jinja2}
  connection: model
  inputs: {model: echo, question: "${shout.output}"}
"""
SHOUT = """
from opentelemetry import trace
from promptflow.tracing import trace as traced

@traced
def louder(text: str) -> str:
    return text.upper()

def invoke(text: str) -> str:
    if text == "fail":
        raise ValueError("cannot shout that")
    with trace.get_tracer("mine").start_as_current_span("own work"):
        return louder(text)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_server: ModelServer) -> Iterator[tuple[Served, Path]]:
    """A server that has run three times: for ann, for nobody, and in vain."""
    folder = tmp_path_factory.mktemp("traces")
    connections = f"model: {{type: open_ai, base_url: '{model_server.url}', max_retries: 0}}\n"
    flow = write_flow(
        folder / "flow",
        FLOW,
        {"shout.py": SHOUT, "reply.jinja2": "# user:\n{{question}}\n", "connections.yaml": connections},
    )
    with serving(flow, folder) as server:
        headers = {"Chat-Session-Id": SESSION, "Chat-User-Id": "ann", "X-Request-Id": "request-1"}
        httpx.post(f"{server.url}/", json={"question": "你好"}, headers=headers)
        httpx.post(f"{server.url}/run", json={"inputs": {"question": "second"}, "stream": False})
        httpx.post(f"{server.url}/", json={"question": "fail"})
        yield server, folder / "data"


def get(served: tuple[Served, Path], path: str, **query: Any) -> Any:
    return httpx.get(f"{served[0].url}{path}", params=query).json()


def test_runs_are_listed_newest_first(served: tuple[Served, Path]) -> None:
    listed = get(served, "/traces")
    assert listed["next_cursor"] is None
    failed, second, first = listed["data"]
    assert json.loads(first["input"]) == {"question": "你好", "chat_history": []}
    assert (first["status"], first["protocol"], first["user_id"]) == ("Completed", "simple", "ann")
    assert first["usage"] == {"prompt_tokens": 11, "completion_tokens": 7}
    assert (first["session_id"], first["request_id"]) == (SESSION, "request-1")
    assert (second["protocol"], second["user_id"], second["error"]) == ("complete", None, None)
    assert (failed["status"], "cannot shout that" in failed["error"]) == ("Failed", True)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"session": SESSION}, 1),
        ({"user": "ann"}, 1),
        ({"user": "nobody"}, 0),
        ({"status": "Completed"}, 2),
        ({"min_duration": 100}, 0),
        ({"max_duration": 100, "text": "second"}, 1),
        ({"text": "cannot shout"}, 1),
        ({"limit": 2}, 2),
    ],
)
def test_listings_can_be_narrowed(served: tuple[Served, Path], query: dict[str, Any], count: int) -> None:
    assert len(get(served, "/traces", **query)["data"]) == count


def test_pages_follow_each_other(served: tuple[Served, Path]) -> None:
    first = get(served, "/traces", limit=2)
    second = get(served, "/traces", limit=2, cursor=first["next_cursor"])
    assert [len(first["data"]), len(second["data"]), second["next_cursor"]] == [2, 1, None]


@pytest.mark.parametrize(
    "query", [{"status": "Bad"}, {"limit": 0}, {"min_duration": "x"}, {"cursor": "x"}, {"odd": "1"}]
)
def test_a_wrong_query_is_named(served: tuple[Served, Path], query: dict[str, Any]) -> None:
    answer = httpx.get(f"{served[0].url}/traces", params=query)
    assert answer.status_code == 400
    assert next(iter(query)) in answer.json()["error"]["message"]


@pytest.mark.parametrize("key", ["trace_id", "run_id", "request_id", "session_id"])
def test_a_trace_is_the_tree_of_its_spans(served: tuple[Served, Path], key: str) -> None:
    listed = get(served, "/traces", user="ann")["data"][0]
    trace = get(served, f"/traces/{listed[key]}")
    assert trace["trace_id"] == listed["trace_id"]
    (run,) = trace["runs"]
    assert {name: run[name] for name in listed} == listed
    (root,) = run["spans"]
    assert root["name"] == "invoke_workflow flow"
    shout, reply = root["children"]
    assert (shout["name"], shout["attributes"]["output.value"]) == ("shout", "你好")
    (own,) = shout["children"]
    assert (own["name"], [below["name"] for below in own["children"]]) == ("own work", ["louder"])
    (call,) = reply["children"]
    assert (call["name"], call["kind"], call["status"]) == ("chat echo", "CLIENT", "UNSET")
    assert 0 < call["duration"] <= reply["duration"] <= root["duration"]


def test_errors_have_their_stack(served: tuple[Served, Path]) -> None:
    failed = get(served, "/traces", status="Failed")["data"][0]
    (root,) = get(served, f"/traces/{failed['run_id']}")["runs"][0]["spans"]
    (shout,) = root["children"]
    assert (root["status"], shout["status"]) == ("ERROR", "ERROR")
    event = shout["events"][0]["attributes"]
    assert (event["exception.type"], event["exception.message"]) == ("ValueError", "ValueError: cannot shout that")
    assert "shout.py" in event["exception.stacktrace"]


def test_an_unknown_trace_is_404(served: tuple[Served, Path]) -> None:
    answer = httpx.get(f"{served[0].url}/traces/{'0' * 32}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "trace_not_found")


def test_runs_are_listed_in_the_terminal(served: tuple[Served, Path]) -> None:
    get(served, "/traces")  # what has ended is stored now
    head, failed, second, first = run_command("traces", "--data", str(served[1])).stdout.splitlines()
    assert head.split() == ["STARTED", "STATUS", "DURATION", "TOKENS", "RUN", "INPUT"]
    assert first.endswith("你好")
    assert "11+7" in second
    assert failed.split()[2:3] == ["Failed"]
    assert run_command("traces", "--data", str(served[1]), "--user", "nobody").stdout == "no runs\n"
    listed = json.loads(run_command("traces", "--data", str(served[1]), "--json", "-n", "1").stdout)["data"]
    assert [run["status"] for run in listed] == ["Failed"]


def test_a_trace_is_printed_as_a_tree(served: tuple[Served, Path]) -> None:
    run_id = get(served, "/traces", user="ann")["data"][0]["run_id"]
    lines = run_command("trace", run_id[:8], "--data", str(served[1])).stdout.splitlines()
    assert lines[0].startswith("invoke_workflow flow  Completed  ")
    assert lines[0].endswith("11+7 tokens")
    assert f"run      {run_id}" in lines
    assert any(line.startswith("├─ shout  python  ") for line in lines)
    assert "│  │  out   你好" in lines
    assert any(line.startswith("└─ reply  llm  ") for line in lines)
    assert any(line.startswith("   └─ chat echo  ") and line.endswith("11+7 tokens  stop") for line in lines)
    assert "         in    user: 你好" in lines


def test_the_newest_trace_is_printed_without_an_id(served: tuple[Served, Path]) -> None:
    get(served, "/traces")
    done = run_command("trace", "--data", str(served[1]))
    assert "error node 'shout' failed: ValueError: cannot shout that" in done.stdout
    full = run_command("trace", "--full", "--data", str(served[1]))
    assert 'raise ValueError("cannot shout that")' in full.stdout
    printed = json.loads(run_command("trace", "--json", "--data", str(served[1])).stdout)
    assert printed == get(served, f"/traces/{printed['trace_id']}")


def test_the_data_folder_is_found(served: tuple[Served, Path], tmp_path: Path) -> None:
    get(served, "/traces")
    data = tmp_path / ".flowpod" / "one"
    data.parent.mkdir()
    data.symlink_to(served[1])
    below = tmp_path / "deeper"
    below.mkdir()
    env = {"PYTHONPATH": str(Path.cwd())}
    assert "invoke_workflow" in run_command("trace", cwd=below, env=env).stdout
    (tmp_path / ".flowpod" / "two").symlink_to(served[1])
    done = run_command("trace", cwd=below, env=env)
    assert done.returncode == 1
    assert f"several services have traces; choose one:\n  --data {data}\n" in done.stderr
    done = run_command("traces", "--data", str(below))
    assert (done.returncode, "there are no traces in" in done.stderr) == (1, True)
    done = run_command("trace", "nowhere", "--data", str(served[1]))
    assert (done.returncode, "has the id 'nowhere'" in done.stderr) == (1, True)


@pytest.mark.parametrize("settings", [{"FLOWPOD_TRACE_STORE": "off"}, {"FLOWPOD_TRACING": "off"}])
def test_without_a_store_traces_are_404(tmp_path: Path, settings: dict[str, str]) -> None:
    flow = write_flow(tmp_path / "flow", "outputs: {}\nnodes: [{name: a, type: template, template: hi}]\n")
    with serving(flow, tmp_path, **settings) as server:
        answer = httpx.get(f"{server.url}/traces")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_trace_store")
        assert httpx.get(f"{server.url}/metrics").status_code == 200
    assert not (tmp_path / "data" / "traces.db").exists()


@pytest.mark.parametrize("count", ["-1", "0", "many", "9" * 30])
def test_a_listing_of_no_number_is_refused(served: tuple[Served, Path], count: str) -> None:
    done = run_command("traces", "--data", str(served[1]), f"-n={count}")
    assert done.returncode == 2
    assert "is not a positive number" in done.stderr


def test_a_search_for_an_endless_text_is_refused(served: tuple[Served, Path]) -> None:
    url = f"{served[0].url}/traces"
    assert httpx.get(url, params={"text": "x" * 1000}).status_code == 200
    refused = httpx.get(url, params={"text": "x" * 1001})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text")
