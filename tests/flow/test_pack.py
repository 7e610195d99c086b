"""`flowpod pack`: what an image is made from."""

from pathlib import Path

import pytest

from flowpod.errors import FlowProblems, InvalidRequest
from flowpod.flow.load.pack import pack
from tests.support.flows import write_flow
from tests.support.serving import environment, run_command

FLOW = """
# A comment that stays.
additional_includes:
- ../shared/words.jinja2
- ../shared/more
inputs:
  name: {type: string}
outputs:
  out: {type: string, reference: "${greet.output}"}
nodes:
- {name: greet, type: prompt, source: {path: words.jinja2}, inputs: {name: "${inputs.name}"}}
"""
ENVIRONMENT = "environment: {python_requirements_txt: needs/all.txt}\n"


def requirements(folder: Path, files: dict[str, str], head: str = ENVIRONMENT) -> tuple[str, list[str]]:
    left_out = pack(write_flow(folder / "flow", head + "nodes: []\n", files), folder / "packed")
    return (folder / "packed" / "requirements.txt").read_text(), left_out


def test_a_packed_flow_contains_its_includes_and_runs(tmp_path: Path) -> None:
    flow = write_flow(tmp_path / "a" / "flow", FLOW)
    write_flow(tmp_path / "a" / "shared", "", {"words.jinja2": "Hello {{ name }}", "more/x.txt": "x"})
    write_flow(tmp_path / "a" / "connections", "", {"mine.yaml": "name: mine\ntype: custom\n"})
    before = sorted(flow.rglob("*"))
    done = run_command("pack", str(flow), str(tmp_path / "packed"), env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"{flow}: packed into {tmp_path / 'packed'}\n"), done.stderr
    packed = tmp_path / "packed" / "flow"
    assert sorted(path.name for path in packed.iterdir()) == ["flow.dag.yaml", "more", "words.jinja2"]
    assert (tmp_path / "packed" / "connections" / "mine.yaml").is_file()
    assert (tmp_path / "packed" / "requirements.txt").read_text() == ""
    old, new = (folder.joinpath("flow.dag.yaml").read_text().splitlines() for folder in (flow, packed))
    assert new[:4] == ["# A comment that stays.", "additional_includes: []", "", ""]
    assert new[4:] == old[4:]
    assert sorted(flow.rglob("*")) == before
    for path in (tmp_path / "a").rglob("*.jinja2"):
        path.unlink()
    done = run_command("run", str(packed), "name=Ann", env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, "Hello Ann\n"), done.stderr


def test_requirements_are_one_list_without_packages_that_flowpod_stands_in_for(tmp_path: Path) -> None:
    text, left_out = requirements(
        tmp_path,
        {
            "needs/all.txt": """
            # what we need
            promptflow[azure]>=1.0
            Promptflow_Tools==1.4  # stays: it is a package of its own
            langstudio
            -r more.txt
            six==1.16.0 \\
                --hash=sha256:abc
            """,
            "needs/more.txt": "-r all.txt\n--requirement=deep/x.txt\npromptflow-core ; python_version > '3'\n",
            "needs/deep/x.txt": "numpy # fast\npkg @ file:///x#egg=pkg\n",
        },
    )
    assert text.splitlines() == [
        "Promptflow_Tools==1.4",
        "numpy",
        "pkg @ file:///x#egg=pkg",
        "six==1.16.0 --hash=sha256:abc",
    ]
    assert left_out == ["promptflow[azure]>=1.0", "langstudio", "promptflow-core ; python_version > '3'"]


def test_requirements_txt_is_the_default(tmp_path: Path) -> None:
    assert requirements(tmp_path, {"requirements.txt": "six\n"}, head="") == ("six\n", [])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "needs/all.txt: the requirements cannot be read"),
        ({"needs/all.txt": "-r ../../secret.txt"}, "is outside the flow's folder"),
        ({"flow.dag.yaml": "a: ["}, "flow.dag.yaml: not valid YAML"),
    ],
    ids=["missing", "outside", "broken"],
)
def test_flow_that_cannot_be_packed_is_reported(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(FlowProblems, match=message):
        requirements(tmp_path, files)


def test_existing_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    with pytest.raises(InvalidRequest, match="already exists"):
        requirements(tmp_path, {"needs/all.txt": ""})
