"""The `flowpod` command, run as a process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flowpod.flow.document.flow import flow_json_schema
from flowpod.nodes import KINDS
from tests.support.flows import stubborn_flow, write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import ROOT, environment, run_command, serving

BROKEN = """
inputs:
  question: {type: strin}
outputs:
  answer: {type: string, reference: "${replly.output}"}
nodes:
- name: reply
  type: python
"""


def broken(folder: Path) -> Path:
    return write_flow(folder, BROKEN)


def env_of(folder: Path, **settings: str) -> dict[str, str]:
    return environment(folder, **settings)


def test_check_reports_every_problem_with_file_line_and_key(tmp_path: Path) -> None:
    dag = """
    inputs:
      question: {type: string}
    outputs:
      answer: {type: string, reference: "${replly.output}"}
    nodes:
    - name: reply
      type: python
      source: {path: nothing.py}
      inputs: {q: "${inputs.quest}"}
      surprise: 1
    - name: talk
      type: llm
      source: {path: talk.jinja2}
      connection: nowhere
    """
    flow = write_flow(tmp_path / "flow", dag, {"talk.jinja2": "# user:\n{{q}}"})
    done = run_command("check", str(flow), env=env_of(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"warning: {flow}/flow.dag.yaml:10: nodes[0].surprise: unknown key, ignored",
        (
            f"error: {flow}/flow.dag.yaml:4: outputs.answer.reference: ${{replly.output}}: there is no node 'replly'; "
            "there are reply, talk"
        ),
        (
            f"error: {flow}/flow.dag.yaml:9: nodes[0].inputs.q: ${{inputs.quest}}: there is no input 'quest'; "
            "there are question"
        ),
        f"error: {flow}/flow.dag.yaml:8: nodes[0].source.path: there is no file 'nothing.py' in the flow's folder",
        (
            f"error: {flow}/flow.dag.yaml:14: nodes[1].connection: node 'talk': there is no connection 'nowhere'; define it "
            "in connections.yaml or where FLOWPOD_CONNECTIONS points"
        ),
        f"{flow}: 4 errors, 1 warning",
    ]


def test_check_of_a_good_flow(tmp_path: Path, chat_flow: Path) -> None:
    done = run_command("check", str(chat_flow), env=env_of(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{chat_flow}: no problems\n", "")


def test_an_unset_variable_is_a_warning_of_check_and_an_error_of_serve(tmp_path: Path) -> None:
    flow = write_chat_flow(tmp_path / "flow", "${env:NOT_SET}")
    checked = run_command("check", str(flow), env=env_of(tmp_path))
    assert checked.returncode == 0
    assert "warning" in checked.stdout
    assert "the environment variable NOT_SET is not set" in checked.stdout
    served = run_command("serve", str(flow), "--port", "0", env=env_of(tmp_path))
    assert served.returncode == 1
    assert "the environment variable NOT_SET is not set" in served.stderr
    assert "Traceback" not in served.stderr


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["serve", "--workers", "2"], ["run"], ["check"]])
def test_a_broken_flow_is_refused_with_its_problems(tmp_path: Path, command: list[str]) -> None:
    done = run_command(*command, str(broken(tmp_path / "flow")), env=env_of(tmp_path))
    assert done.returncode == 1
    assert "flow.dag.yaml:2: inputs.question.type: input should be 'int', 'double'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_folder(tmp_path: Path) -> None:
    done = run_command("serve", str(tmp_path / "nothing"), env=env_of(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'nothing'}: the folder does not exist\n")


def test_run_streams_the_answer_and_reports_nodes(tmp_path: Path, chat_flow: Path) -> None:
    done = run_command("run", str(chat_flow), "question=hello there", env=env_of(tmp_path))
    assert (done.returncode, done.stdout) == (0, "You said: hello there\n")
    assert "reply: Running" in done.stderr
    assert "reply: Completed" in done.stderr
    assert not (tmp_path / "data").exists()


def test_run_of_a_failing_flow_says_why(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "fail:400")
    done = run_command("run", str(flow), "question=hi", env=env_of(tmp_path))
    assert done.returncode == 1
    assert "Failed: node 'reply': connection 'model'" in done.stderr
    assert "the model answered 400: refused with 400" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_does_not_wait_for_a_task_that_refuses_to_be_cancelled(tmp_path: Path) -> None:
    done = run_command("run", str(stubborn_flow(tmp_path / "flow")), "wait=false", env=env_of(tmp_path))
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_an_interrupt_ends_a_run_that_refuses_to_be_cancelled(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flowpod", "run", str(stubborn_flow(tmp_path / "flow")), "wait=true"]
    with subprocess.Popen(command, cwd=ROOT, env=env_of(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "stubborn: Running\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["hello"], "'hello' is not an input; write NAME=VALUE\n"),
        (["quest=1"], "the flow has no input 'quest'; its inputs: question, chat_history\n"),
        ([], "input 'question' is missing\n"),
        (["question=a", "chat_history=5"], "input 'chat_history': expected a list, got 5\n"),
    ],
)
def test_run_refuses_bad_inputs(tmp_path: Path, chat_flow: Path, inputs: list[str], message: str) -> None:
    done = run_command("run", str(chat_flow), *inputs, env=env_of(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_schema_is_the_flows_json_schema() -> None:
    assert json.loads(run_command("schema").stdout) == flow_json_schema(KINDS)


def test_help_names_the_commands_and_every_setting() -> None:
    commands = run_command("--help").stdout
    assert all(command in commands for command in ("serve", "check", "run", "schema"))
    assert "FLOWPOD_TOKENS" in run_command("serve", "--help").stdout


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, ["--host", "0.0.0.0"], "other machines can reach 0.0.0.0, and no token is set"),
        ({"FLOWPOD_TOKENS_FILE": "/nowhere"}, [], "FLOWPOD_TOKENS_FILE: /nowhere cannot be read"),
        ({"FLOWPOD_RUN_TIMEOUT_S": "soon"}, [], "FLOWPOD_RUN_TIMEOUT_S: "),
        ({"FLOWPOD_SERVICE_NAME": "Not Good"}, [], "FLOWPOD_SERVICE_NAME: "),
        ({"FLOWPOD_HISTORY": "oracle://x"}, [], "FLOWPOD_HISTORY: expected sqlite"),
        ({}, ["--host", "256.1.1.1"], "other machines can reach 256.1.1.1"),
        ({"FLOWPOD_TOKENS": "t"}, ["--host", "256.1.1.1"], "cannot listen on 256.1.1.1:0: "),
        ({}, ["--port", "99999"], "'99999' is not a port; give a number from 0 to 65535"),
        ({}, ["--workers", "0"], "'0' is not a positive number"),
        ({"FLOWPOD_TOKENS": "t"}, ["--host", f"{'a' * 70}.b"], "this is not a valid host name"),
    ],
)
def test_invalid_options_and_settings_are_reported_in_one_line(
    tmp_path: Path, chat_flow: Path, settings: dict[str, str], options: list[str], message: str
) -> None:
    done = run_command("serve", str(chat_flow), "--port", "0", *options, env=env_of(tmp_path, **settings))
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_reported(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path) as served:
        port = served.url.rpartition(":")[2]
        done = run_command("serve", str(chat_flow), "--port", port, env=env_of(tmp_path))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_auth_off_opens_any_address_and_warns(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, "--host", "0.0.0.0", FLOWPOD_AUTH="off") as served:
        assert served.log.count("FLOWPOD_AUTH=off: anyone who can reach 0.0.0.0") == 1


def test_nothing_is_written_into_a_flow_folder(tmp_path: Path, chat_flow: Path) -> None:
    (chat_flow / "sibling.py").write_text("VALUE = 1\n")
    before = sorted(chat_flow.rglob("*"))
    env = env_of(tmp_path)
    del env["FLOWPOD_DATA_DIR"]
    with serving(chat_flow, tmp_path) as served:
        httpx.post(served.url, json={"question": "hi"}).raise_for_status()
    done = run_command("run", ".", "question=hi", cwd=chat_flow, env=env | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
    assert sorted(chat_flow.rglob("*")) == before


ELSEWHERE = """
environment_variables:
  GREETING: hello
  KEY: ${{llm.api_key}}
additional_includes: [../shared]
outputs:
  a: {{type: string, reference: "${{n.output}}"}}
nodes:
- {{name: n, type: python, source: {{path: {path}}}, inputs: {{c: llm}}}}
"""
CODE = """
import os
from pathlib import Path
from promptflow.connections import OpenAIConnection
START = os.environ["GREETING"]

def invoke(c: OpenAIConnection):
    return f"{START} {os.environ['KEY']} {c.api_key} {Path('shared/word.txt').read_text()}"
"""


def test_a_flow_uses_files_variables_and_connections_from_outside(tmp_path: Path) -> None:
    """Variables are set before code is imported, included files are next to it, connections come from FLOWPOD_CONNECTIONS."""
    flow = write_flow(tmp_path / "flow", ELSEWHERE.format(path="shared/a.py"))
    write_flow(tmp_path / "shared", "", {"a.py": CODE, "word.txt": "world"})
    (tmp_path / "mine.yaml").write_text("llm: {type: open_ai, api_key: '${env:SECRET}'}")
    before = sorted(flow.rglob("*"))
    env = env_of(tmp_path, FLOWPOD_CONNECTIONS="mine.yaml", SECRET="s3") | {"PYTHONPATH": str(ROOT)}
    for command in (["check", "flow"], ["run", "flow"]):
        done = run_command(*command, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "hello s3 s3 world\n"
    assert sorted(flow.rglob("*")) == before
    assert list((tmp_path / "data").glob("flow-*")) == []
    done = run_command("run", "flow", cwd=tmp_path, env=env | {"GREETING": "moin"})
    assert done.stdout == "moin s3 s3 world\n"


def test_missing_includes_and_connections_are_reported(tmp_path: Path) -> None:
    write_flow(tmp_path / "flow", ELSEWHERE.format(path="a.py"), {"a.py": CODE})
    done = run_command("check", "flow", cwd=tmp_path, env=env_of(tmp_path) | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        (
            "error: flow/flow.dag.yaml:4: additional_includes[0]: there is no file or folder '../shared'; paths "
            "start at the flow's folder"
        ),
        "error: flow/flow.dag.yaml:3: environment_variables.KEY: ${llm.api_key}: there is no connection 'llm'; the connections are offline",
        (
            "error: flow/flow.dag.yaml:8: nodes[0].inputs.c: node 'n': there is no connection 'llm'; define it in "
            "connections.yaml or where FLOWPOD_CONNECTIONS points"
        ),
        "flow: 3 errors, 0 warnings",
    ]


def test_a_flow_with_includes_is_copied_into_a_relative_data_folder(tmp_path: Path) -> None:
    (tmp_path / "shared.jinja2").write_text("Hello {{ name }}")
    dag = """
    additional_includes: [../shared.jinja2]
    inputs:
      name: {type: string}
    outputs:
      out: {type: string, reference: "${greet.output}"}
    nodes:
    - {name: greet, type: prompt, source: {path: shared.jinja2}, inputs: {name: "${inputs.name}"}}
    """
    flow = write_flow(tmp_path / "flow", dag)
    env = env_of(tmp_path, PYTHONPATH=str(ROOT)) | {"FLOWPOD_DATA_DIR": "data"}
    done = run_command("run", str(flow), "name=Ann", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "Hello Ann\n"), done.stderr
    assert list((tmp_path / "data").iterdir()) == []
    assert sorted(path.name for path in flow.iterdir()) == ["flow.dag.yaml"]
