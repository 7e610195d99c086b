"""The image as it is run in earnest: read-only, without capabilities, not as root."""

import json
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.image.conftest import built
from tests.image.engine import Engine
from tests.support.documents import blocks
from tests.support.flows import SESSION, write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import ROOT

TOKEN = {"Authorization": "Bearer t0ken"}


@contextmanager
def new_volume(engine: Engine) -> Iterator[str]:
    """The option for a volume that is there until the block ends."""
    name = f"flowpod-test-{uuid.uuid4().hex}"
    yield f"--volume={name}:/langstudio/flow"
    engine.call("volume", "rm", "--force", name)


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    """The option for a volume of the test's own."""
    with new_volume(engine) as option:
        yield option


def environment(model_server: ModelServer, **settings: str) -> list[str]:
    needed = {"FLOWPOD_TOKENS": "t0ken", "FLOWPOD_DRAIN_DELAY_S": "0", "MODEL_URL": model_server.url}
    settings = needed | settings
    return [f"--env={name}={value}" for name, value in settings.items()]


def test_three_modes_and_a_restart_work(engine: Engine, image: str, volume: str, model_server: ModelServer) -> None:
    headers = {**TOKEN, "Chat-Session-Id": SESSION}
    one, two = f"one {uuid.uuid4()}", f"two {uuid.uuid4()}"
    with engine.serving(image, volume, *environment(model_server)) as (container, url):
        assert httpx.post(url, json={"question": one}).status_code == 401
        assert httpx.post(url, json={"question": one}, headers=headers).json() == {"answer": f"You said: {one}"}
        frames = httpx.post(f"{url}/run", json={"inputs": {"question": "complete"}}, headers=TOKEN).text
        assert '"event":"RunTerminated"' in frames.splitlines()[-2]
        body = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=TOKEN).json()
        assert answer["choices"][0]["message"]["content"] == "You said: hi"
        engine.call("stop", container)
        assert engine.call("inspect", "--format", "{{.State.ExitCode}}", container) == "0\n"
    with engine.serving(image, volume, *environment(model_server)) as (_, url):
        httpx.post(url, json={"question": two}, headers=headers).raise_for_status()
    sent = next(c for c in model_server.calls if c.question == two).body["messages"]
    assert [message["content"] for message in sent[1:]] == [one, f"You said: {one}", two]


def test_an_upgrade_serves_the_changed_flow_with_the_old_history(
    engine: Engine, context: Path, image: str, volume: str, model_server: ModelServer
) -> None:
    prompt = write_chat_flow(context / "flows" / "upgrade", "${env:MODEL_URL}") / "reply.jinja2"
    prompt.write_text(prompt.read_text().replace("Be brief.", "Be long."))
    headers = {**TOKEN, "Chat-Session-Id": SESSION}
    one, two = f"one {uuid.uuid4()}", f"two {uuid.uuid4()}"
    for tag, question in ((image, one), (built(engine, context, "upgrade"), two)):
        with engine.serving(tag, volume, *environment(model_server)) as (_, url):
            httpx.post(url, json={"question": question}, headers=headers).raise_for_status()
    sent = next(c for c in model_server.calls if c.question == two).body["messages"]
    assert sent[0]["content"].strip() == "Be long."
    assert [message["content"] for message in sent[1:]] == [one, f"You said: {one}", two]


def test_sigterm_lets_a_stream_end(engine: Engine, context: Path, volume: str, model_server: ModelServer) -> None:
    write_chat_flow(context / "flows" / "slow", "${env:MODEL_URL}", "words:20:0.1")
    settings = environment(model_server, FLOWPOD_DRAIN_DELAY_S="0.5")
    with engine.serving(built(engine, context, "slow"), volume, *settings) as (container, url):
        with httpx.stream("POST", f"{url}/run", json={"inputs": {"question": "hi"}}, headers=TOKEN) as response:
            lines = response.iter_lines()
            next(lines)
            engine.call("kill", "--signal", signal.SIGTERM.name, container)
            last = [json.loads(line.removeprefix("data: ")) for line in lines if line][-1]
        assert last["flow_run_info"]["status"] == "Completed"
        assert engine.call("wait", container) == "0\n"


def test_a_history_is_backed_up_while_it_is_used_and_restored_as_the_page_says(
    engine: Engine, image: str, volume: str, tmp_path: Path, model_server: ModelServer
) -> None:
    commands = [text for kind, text in blocks(ROOT / "docs" / "operating.md") if kind == "sh" and "backup.db" in text]
    headers = {**TOKEN, "Chat-Session-Id": SESSION}
    with engine.serving(image, volume, *environment(model_server)) as (container, url):
        httpx.post(url, json={"question": "kept"}, headers=headers).raise_for_status()
        engine.shell(commands[0].replace(" my-flow", f" {container}"), tmp_path)
    with new_volume(engine) as other:
        restore = commands[1].replace("-v my-flow-data:/langstudio/flow", other).replace(" my-flow ", f" {image} ")
        engine.shell(restore, tmp_path)
        with engine.serving(image, other, *environment(model_server)) as (_, url):
            turns = httpx.get(f"{url}/chat/sessions/{SESSION}/turns", headers=TOKEN).json()["data"]
    assert [turn["inputs"]["question"] for turn in turns] == ["kept"]


@pytest.mark.parametrize("user", [None, "4242", "1000660000:0"])
def test_only_the_data_folder_is_writable(engine: Engine, image: str, user: str | None) -> None:
    options = [] if user is None else ["--user", user]
    script = "id -u; find / -xdev \\( -path /proc -o -path /sys -o -path /dev \\) -prune -o -writable ! -type l -print 2>&-; true"
    # Not read-only here: the permissions alone must do. What anybody may write are Debian's places for temporary files.
    printed = engine.loosely(image, *options, command=["-c", script], entrypoint="sh").splitlines()
    assert printed[0] == (user or "10001").partition(":")[0]
    assert set(printed[1:]) - {"/tmp", "/var/tmp", "/run/lock"} == {"/langstudio/flow"}


def test_any_user_can_serve(engine: Engine, image: str, model_server: ModelServer) -> None:
    with engine.serving(image, "--user", "1000660000", *environment(model_server)) as (container, url):
        assert httpx.post(url, json={"question": "hi"}, headers=TOKEN).json() == {"answer": "You said: hi"}
        assert "chat_history.db" in engine.call("exec", container, "ls", "/langstudio/flow")


def test_workers_share_port_and_history(engine: Engine, image: str, volume: str, model_server: ModelServer) -> None:
    headers = {**TOKEN, "Chat-Session-Id": SESSION}
    with engine.serving(image, volume, *environment(model_server), more=["--workers", "2"]) as (container, url):
        for number in range(10):
            question = f"{container} {number}"
            httpx.post(url, json={"question": question}, headers=headers).raise_for_status()
        sent = next(c for c in model_server.calls if c.question == question).body["messages"]
        assert len(sent) == 1 + 2 * 9 + 1
        engine.call("stop", container)
        assert engine.call("inspect", "--format", "{{.State.ExitCode}}", container) == "0\n"


def test_the_default_command_serves_and_its_health_check_says_so(engine: Engine, image: str) -> None:
    check = engine.inspect(image)["Config"]["Healthcheck"]["Test"][1:]
    settings = ["--env=FLOWPOD_TOKENS=t0ken", "--env=MODEL_URL=http://127.0.0.1:9/v1"]
    with engine.started(image, "--network", "none", *settings) as container:
        engine.wait_for("serving flow 'flow' on http://0.0.0.0:8080", container)
        assert engine.call("exec", container, *check) == ""
    with (
        engine.started(image, "--network", "none", "--entrypoint", "sleep", command=["60"]) as container,
        pytest.raises(AssertionError, match="Connection refused"),
    ):
        engine.call("exec", container, *check)


def test_without_a_token_it_refuses_to_serve(engine: Engine, image: str, model_server: ModelServer) -> None:
    settings = environment(model_server, FLOWPOD_TOKENS="")
    with pytest.raises(AssertionError, match="Set FLOWPOD_TOKENS"):
        engine.once(image, *settings, command=["serve", "/app/flow", "--host", "0.0.0.0"])
