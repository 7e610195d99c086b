from collections.abc import Mapping
from pathlib import Path

import pytest

from flowpod.errors import FlowProblems, Problem
from flowpod.flow.load.loader import load_flow
from flowpod.flow.model import Activation, Flow, Reference
from flowpod.nodes import KINDS
from tests.support.flows import write_flow
from tests.support.serving import ROOT


def load(tmp_path: Path, dag: str, files: Mapping[str, str] | None = None) -> tuple[Flow, list[Problem]]:
    return load_folder(write_flow(tmp_path / "flow", dag, {"a.py": "", **(files or {})}))


def load_folder(folder: Path) -> tuple[Flow, list[Problem]]:
    loaded = load_flow(folder, KINDS, {})
    return loaded.flow, [*loaded.source.problems, *loaded.other_problems]


def problem_lines(problems: list[Problem]) -> list[str]:
    """Return problems as lines; those that are not errors begin with what they are."""
    return [
        f"{'' if problem.severity == 'error' else problem.severity + ' '}{problem}".replace("\n", " ")
        for problem in problems
    ]


NODE = "{name: a, type: python, source: {path: a.py}}"


def test_flow_is_read_whole(tmp_path: Path) -> None:
    flow, found = load(
        tmp_path,
        """
        $schema: https://example.org/schema.json
        display_name: Name
        description: Text
        inputs:
          question: {type: string, is_chat_input: true, description: Ask.}
          chat_history: {type: list, default: []}
          count: {type: int, default: "3"}
          none: {type: int, default: null}
        outputs:
          answer: {type: string, reference: "${b.output}", is_chat_output: true, description: It.}
          fixed: {type: int, reference: 7}
        nodes:
        - name: b
          type: llm
          display_name: B
          description: Does b.
          source: {type: code, path: prompts/b.jinja2}
          connection: offline
          inputs: {question: "${flow.question}", text: "see ${a.output}", deep: "${a.output.x[0]}"}
          activate: {when: "${a.output.kind}", is: x}
        - name: a
          type: python
          source: {path: a.py}
          inputs:
        """,
        {"prompts/b.jinja2": ""},
    )
    assert found == []
    assert (flow.folder, flow.display_name, flow.description) == ((tmp_path / "flow").resolve(), "Name", "Text")
    assert (flow.chat_input, flow.chat_history, flow.chat_output) == ("question", "chat_history", "answer")
    assert flow.is_chat
    inputs = {name: (part.type, part.has_default, part.default) for name, part in flow.inputs.items()}
    assert inputs == {
        "question": ("string", False, None),
        "chat_history": ("list", True, []),
        "count": ("int", True, 3),
        "none": ("int", True, None),
    }
    assert {name: part.value for name, part in flow.outputs.items()} == {"answer": Reference("node", "b"), "fixed": 7}
    b = flow.nodes["b"]
    assert (b.index, b.type, b.options.source.path, b.connections) == (
        0,
        "llm",
        "prompts/b.jinja2",
        {"connection": "offline"},
    )
    assert (b.display_name, b.description) == ("B", "Does b.")
    assert b.inputs == {
        "question": Reference("inputs", "question"),
        "text": "see ${a.output}",
        "deep": Reference("node", "a", ("x", 0)),
    }
    assert b.activate == Activation(Reference("node", "a", ("kind",)), "x")
    assert flow.nodes["a"].inputs == {}


def test_flow_may_be_named_by_its_file(tmp_path: Path) -> None:
    folder = write_flow(tmp_path, f"nodes: [{NODE}]", {"a.py": ""})
    assert load_flow(folder / "flow.dag.yaml", KINDS, {}).flow.folder == folder.resolve()


def test_packaged_flow_has_no_problems() -> None:
    assert load_folder(ROOT / "flow")[1] == []


@pytest.mark.parametrize(
    ("declared", "role"),
    [
        ("{chat_history: {type: list}}", "chat_history"),
        ("{chat_history: {type: list, is_chat_history: false}}", None),
        ("{past: {type: list, is_chat_history: true}}", "past"),
        ("{past: {type: list}}", None),
        ("{past: {type: list, is_chat_history: true}, chat_history: {type: list, is_chat_history: false}}", "past"),
    ],
)
def test_chat_history_is_found_by_its_mark_or_its_name(tmp_path: Path, declared: str, role: str | None) -> None:
    flow, found = load(tmp_path, f"inputs: {declared}\nnodes: [{NODE}]")
    assert found == []
    assert flow.chat_history == role


@pytest.mark.parametrize(
    ("inputs", "outputs", "is_chat"),
    [
        ("{q: {type: string, is_chat_input: true}}", "{o: {is_chat_output: true}}", True),
        ("{q: {type: string, is_chat_input: true}}", "{o: {}}", True),
        ("{q: {type: string}}", "{o: {is_chat_output: true}}", False),
        ("{q: {type: string}}", "{o: {}}", False),
        ("{}", "{}", False),
    ],
)
def test_chat_flow_has_a_chat_input_and_a_chat_output(tmp_path: Path, inputs: str, outputs: str, is_chat: bool) -> None:
    flow, found = load(tmp_path, f"inputs: {inputs}\noutputs: {outputs}\nnodes: [{NODE}]")
    assert found == []
    assert flow.is_chat is is_chat


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("nothing", "{folder}: the folder does not exist"),
        ("folder", "{folder}: there is no flow.dag.yaml in this folder"),
        (
            "flow.flex.yaml",
            "{folder}/flow.flex.yaml: this is a flex flow, which is a Python program; Flowpod serves flow.dag.yaml",
        ),
        ("folder as file", "{folder}: there is no flow.dag.yaml in this folder"),
    ],
)
def test_folder_without_a_flow_is_refused(tmp_path: Path, make: str, expected: str) -> None:
    folder = tmp_path / "flow"
    if make != "nothing":
        folder.mkdir()
    if make == "flow.flex.yaml":
        (folder / make).write_text("entry: x:Y")
    if make == "folder as file":
        (folder / "flow.dag.yaml").mkdir()
    with pytest.raises(FlowProblems) as caught:
        load_flow(folder, KINDS, {})
    assert problem_lines(list(caught.value.problems)) == [expected.format(folder=folder)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"display_name: \xff\n", ["flow.dag.yaml: not UTF-8 text"]),
        ("display_name: é\nnodes: []".encode("utf-16"), ["flow.dag.yaml: not UTF-8 text"]),
        (b"\x00", ["flow.dag.yaml: not valid YAML: unacceptable character #x0000: special characters are not allowed"]),
        (f"\ufeffnodes: [{NODE}]".encode(), []),
        (f"nodes:\r\n- {NODE}\r\n".encode(), []),
    ],
)
def test_bytes_of_the_file(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    write_flow(tmp_path, "", {"a.py": ""})
    (tmp_path / "flow.dag.yaml").write_bytes(content)
    try:
        found = load_folder(tmp_path)[1]
    except FlowProblems as error:
        found = list(error.problems)
    assert problem_lines(found) == expected
