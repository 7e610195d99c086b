"""Real clients, each in its own environment, against the served command: what they show, and how often the flow runs.

A client's script runs every scenario and prints what it saw; what is expected here is the same for all of them, but for
what a client does not show.
"""

import json
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_flow import write_full_chat_flow
from tests.support.clients import NODE, node_for, python_for
from tests.support.flows import SESSION
from tests.support.model_server import Call, ModelServer
from tests.support.serving import ROOT, environment, serving

CHECKS = {"check_text", "check_vision", "check_tools"}
"""What Chatbox asks when its user checks a provider."""
RESPONSES = {
    *("response", "response_stream", "response_thinking", "response_middle"),
    *("response_reply", "response_image", "response_failed"),
}
KEPT = {"response_kept", "response_background", "response_followed", "response_cancelled"}
ANSWERED = {"whole", "stream", "turns", "image", "inputs", "session", *CHECKS} | {
    *("response", "response_stream", "response_reply", "response_image"),
    *("response_kept", "response_background", "response_followed"),
}
PARTIAL = {
    "thinking": "forty-two",
    "failed_stream": "",
    "middle": "only ha",
    "response_thinking": "forty-two",
    "response_middle": "only ha",
}
ERRORS = {
    "token": "the token is not valid",
    "invalid": "the last message must be the user's",
    "failed": "the model answered with status 500",
    "failed_stream": "the model answered with status 500",
    "middle": "broke off",
    "response_failed": "the model answered with status 500",
    "response_middle": "broke off",
}
STATUSES = {"token": 401, "invalid": 400, "failed": 424, "response_failed": 424}
SCENARIOS = {*ANSWERED, *PARTIAL, *ERRORS, "cancel"} - CHECKS - RESPONSES - KEPT
MORE: dict[str, set[str]] = {
    "openai_python": {"models"} | RESPONSES | KEPT,
    "openai_node": {"models"} | RESPONSES | KEPT,
    "ai_sdk": CHECKS | RESPONSES,
    "langchain": set(),
    "llama_index": set(),
}
SHOWS_REASONING = {"openai_python", "openai_node", "ai_sdk"}


def command(client: str) -> list[str]:
    """Return the command of a client's script; skips the test where the client is not installed."""
    if client in ("openai_node", "ai_sdk"):
        return [node_for(client), str(NODE / f"{client}.mjs")]
    return [python_for(client), "-m", f"tests.clients.{client}.client"]


@pytest.mark.parametrize("client", MORE)
def test_client_in_a_scenario(
    tmp_path: Path, model_server: ModelServer, client: str, subtests: pytest.Subtests
) -> None:
    script, tag = command(client), str(uuid.uuid4())
    flow = write_full_chat_flow(tmp_path / "flow", model_server.url)
    with serving(flow, tmp_path, FLOWPOD_TOKENS="secret") as served:
        done = subprocess.run(
            [*script, f"{served.url}/v1", "secret", tag, SESSION],
            cwd=ROOT,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        assert results.keys() == SCENARIOS | MORE[client]
        for scenario, result in results.items():
            with subtests.test(scenario):
                check_shown(client, scenario, result)
                check_called(
                    scenario, [c for c in model_server.calls if c.question.endswith(f" {scenario} {tag}")], tag
                )


def check_shown(client: str, scenario: str, result: dict[str, Any]) -> None:
    """Check what the client showed its user."""
    if scenario == "models":
        assert result == {"ids": ["flow", "default"]}
        return
    assert ERRORS.get(scenario, "") in result.get("error", ""), result
    assert result.get("status") == STATUSES.get(scenario)
    if scenario in ANSWERED:
        assert re.fullmatch(rf"You said: echo {scenario} \S+", result["text"]), result
        finish = "completed" if scenario in RESPONSES | KEPT and client != "ai_sdk" else "stop"
        assert (result["finish"], result["tokens"], result.get("error", "")) == (finish, 18, "")
    elif scenario in ("cancel", "response_cancelled"):
        assert result["text"].startswith("more more ")
    elif scenario not in STATUSES:
        assert result["text"] == PARTIAL[scenario]
    if scenario in ("stream", "response_stream"):
        assert result["several"]
    if scenario in ("thinking", "response_thinking"):
        assert result["error"] == ""
        assert result.get("reasoning") == ("let me think" if client in SHOWS_REASONING else None)


def check_called(scenario: str, calls: list[Call], tag: str) -> None:
    """Check what the flow's model was asked: once, also where that failed, or not at all."""
    assert len(calls) == (0 if scenario in ("token", "invalid", "models") else 1)
    for call in calls:
        system, *messages = call.body["messages"]
        before = [message["content"] for message in messages[:-1]]
        match scenario:
            case "whole":
                assert (call.body["temperature"], call.body["max_tokens"]) == (0.25, 50)
            case "turns":
                assert before == [f"first {tag}", "fine"]
            case "session" | "response_reply":
                assert before == [f"before {tag}", f"You said: before {tag}"]
            case "inputs":
                assert system["content"] == "They live in Rome."
            case "image" | "check_vision" | "response_image":
                assert [part["type"] for part in messages[-1]["content"]] == ["text", "image_url"]
                assert messages[-1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
            case "cancel" | "response_cancelled":
                assert call.over.wait(10)
                assert call.ended == "left"
