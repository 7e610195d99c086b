"""The packaged flow as a new user meets it: ask, edit, restart, break, read."""

import shutil
from pathlib import Path

import httpx

from tests.support.model_server import ModelServer
from tests.support.serving import ROOT, environment, run_command, serving


def ask(url: str, question: str, **headers: str) -> str:
    response = httpx.post(url, json={"question": question}, headers=headers)
    assert response.status_code == 200, response.text
    return str(response.json()["answer"])


def test_an_edited_handbook_is_seen_after_a_restart(tmp_path: Path) -> None:
    flow = tmp_path / "my-flow"
    shutil.copytree(ROOT / "flow", flow)
    with serving(flow, tmp_path) as served:
        assert "FLOWPOD_HISTORY=mysql://" in ask(served.url, "How do I keep the history in MySQL?")
        assert "zebra" not in ask(served.url, "What does a zebra eat?")
        assert served.log.count("its model is offline-extract") == 1
    (flow / "handbook" / "zebras.md").write_text("# Zebras\nA zebra eats grass. It is no LLM.\n")
    with serving(flow, tmp_path) as served:
        assert "A zebra eats grass." in ask(served.url, "What does a zebra eat?")


def test_a_broken_file_says_where(tmp_path: Path) -> None:
    flow = tmp_path / "flow"
    shutil.copytree(ROOT / "flow", flow)
    text = (flow / "flow.dag.yaml").read_text()
    (flow / "flow.dag.yaml").write_text(text.replace("  question:\n", "  question\n", 1))
    done = run_command("serve", str(flow), env=environment(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("flow.dag.yaml:5: not valid YAML: ")
    assert "Traceback" not in done.stderr


def test_a_real_model_is_used_where_its_variables_are_set(tmp_path: Path, model_server: ModelServer) -> None:
    variables = {"OPENAI_BASE_URL": model_server.url, "OPENAI_MODEL": "echo"}
    with serving(ROOT / "flow", tmp_path, **variables) as served:
        assert ask(served.url, "How do I rotate a token?") == "You said: How do I rotate a token?"
        body = {"messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(f"{served.url}/v1/chat/completions", json=body).json()["model"] == "echo"
        assert "offline" not in served.log
    call = next(c for c in model_server.calls if c.question == "How do I rotate a token?")
    assert '<passage title="Rotate a token">' in call.body["messages"][0]["content"]
    assert call.body["temperature"] == 0.2


def test_a_model_name_without_an_address_or_a_key_is_a_mistake(tmp_path: Path) -> None:
    done = run_command("serve", str(ROOT / "flow"), env=environment(tmp_path, OPENAI_MODEL="x"))
    assert done.returncode == 1
    assert "the environment variable OPENAI_API_KEY is not set" in done.stderr


def test_a_follow_up_question_is_understood(tmp_path: Path) -> None:
    with serving(ROOT / "flow", tmp_path) as served:
        session = {"Chat-Session-Id": "x" * 32}
        ask(served.url, "How do I keep a conversation?", **session)
        assert "Chat-Session-Id" in ask(served.url, "And how long must the id be?", **session)
