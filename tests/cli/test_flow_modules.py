"""A flow's own modules, whose names must not meet with Flowpod's or with those of the folder of the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.flows import problems_of, write_flow
from tests.support.serving import ROOT, environment, run_command

NAMES = (
    "runtime tests flow docs helm content settings service models nodes engine storage api serving cli "
    "yaml openai json queue statistics opentelemetry helper"
).split()
DAG = """
outputs:
  out: {type: string, reference: "${f.output}"}
nodes:
- {name: f, type: python, source: {path: f.py}}
"""


@pytest.mark.parametrize(
    ("command", "cwd"),
    [
        ([str(Path(sys.executable).parent / "flowpod")], ROOT),
        ([sys.executable, "-m", "flowpod"], ROOT),
        ([sys.executable, "-m", "flowpod"], None),
    ],
    ids=["command", "module", "module in the flow's folder"],
)
def test_module_of_the_flow_may_have_any_other_name(tmp_path: Path, command: list[str], cwd: Path | None) -> None:
    files = [f"{name}.py" for name in NAMES]
    code = [
        *(f"import {name}" for name in NAMES),
        "def invoke():",
        f"    return ' '.join([{', '.join(f'{name}.VALUE' for name in NAMES)}])",
    ]
    flow = write_flow(tmp_path, DAG, {"f.py": "\n".join(code), **{file: f"VALUE = {file!r}\n" for file in files}})
    done = subprocess.run(
        [*command, "run", str(flow)],
        cwd=cwd or flow,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, " ".join(f"{name}.py" for name in NAMES) + "\n"), done.stderr


def test_current_folder_hides_none_of_flowpods_dependencies(tmp_path: Path) -> None:
    flow = write_flow(tmp_path / "flow", DAG, {"f.py": "def invoke():\n    return 'ok'\n"})
    for name in ("yaml", "pydantic", "argparse", "openai"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    done = run_command("run", str(flow), cwd=tmp_path, env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_file_of_a_node_hides_no_installed_module(tmp_path: Path) -> None:
    dag = DAG + "- {name: json, type: python, source: {path: json.py}}\n"
    code = "import json\ndef invoke():\n    return json.dumps([])\n"
    flow = write_flow(tmp_path, dag, {"f.py": code, "json.py": "def invoke():\n    return 1\n"})
    done = run_command("run", str(flow), env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_modules_that_python_always_finds_first_stay_as_they_are(tmp_path: Path) -> None:
    code = "import io, sys, __main__\nSAME = [io.open is open, hasattr(sys, 'argv'), sys.modules['__main__'] is __main__]\n"
    code += "def invoke():\n    return [*SAME, hasattr(__main__, 'main'), sys is __import__('sys')]\n"
    wrong = "raise SystemExit('the wrong module')"
    files = {f"{name}.py": wrong for name in ("io", "sys", "__main__", "__init__")}
    flow = write_flow(tmp_path, DAG.replace("out: {type: string", "out: {type: list"), {"f.py": code, **files})
    done = run_command("run", str(flow), env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, "[true,true,true,true,true]\n"), done.stderr


@pytest.mark.parametrize("name", ["flowpod.py", "flowpod/own.py"])
def test_module_named_flowpod_is_refused(tmp_path: Path, name: str) -> None:
    flow = write_flow(tmp_path, DAG, {"f.py": "def invoke(): ...", name: ""})
    (problem,) = problems_of(flow)
    assert str(problem) == (
        f"{name.partition('/')[0]}: the module name flowpod is Flowpod's own; rename it, and the imports of it"
    )
    done = run_command("check", str(flow), env=environment(tmp_path))
    assert done.returncode == 1
    assert str(problem) in done.stdout
