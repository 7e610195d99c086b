from pathlib import Path
from textwrap import indent

import pytest

from flowpod.errors import FlowProblems
from flowpod.flow.load.loader import load_flow
from flowpod.nodes import KINDS
from tests.support.flows import write_flow


def problems(tmp_path: Path, dag: str) -> list[str]:
    """Return the problems as lines; those that are not errors begin with what they are."""
    try:
        loaded = load_flow(write_flow(tmp_path / "flow", dag, {"a.py": ""}), KINDS, {})
        found = [*loaded.source.problems, *loaded.other_problems]
    except FlowProblems as error:
        found = list(error.problems)
    return [f"{'' if problem.severity == 'error' else problem.severity + ' '}{problem}" for problem in found]


NODE = "{name: a, type: python, source: {path: a.py}}"


TOO_MANY = "flow.dag.yaml: not valid YAML: more than 100000 values, each counted as often as an alias repeats it"


@pytest.mark.parametrize(
    ("dag", "expected"),
    [
        ("", ["flow.dag.yaml: nodes: this key is required"]),
        ("# only a comment\n", ["flow.dag.yaml: nodes: this key is required"]),
        ("nodes: []", ["flow.dag.yaml:1: nodes: list should have at least 1 item after validation, not 0"]),
        ("nodes:", ["flow.dag.yaml:1: nodes: input should be a valid list"]),
        ("- a\n- b", ["flow.dag.yaml:1: expected a mapping of keys to values"]),
        ("[]", ["flow.dag.yaml:1: expected a mapping of keys to values"]),
        ("just text", ["flow.dag.yaml:1: expected a mapping of keys to values"]),
        ("nodes: [a]", ["flow.dag.yaml:1: nodes[0]: expected a mapping of keys to values"]),
        ("nodes: {a: b}", ["flow.dag.yaml:1: nodes: input should be a valid list"]),
        (f"nodes: [{NODE}]\ninputs: [q]", ["flow.dag.yaml:2: inputs: expected a mapping of keys to values"]),
        (
            f"nodes: [{NODE}]\ninputs: {{q: string}}",
            ["flow.dag.yaml:2: inputs.q: expected a mapping of keys to values"],
        ),
        (
            f"nodes: [{NODE}]\ninputs: {{yes: {{type: int}}}}",
            ["flow.dag.yaml:2: inputs: a key in this mapping is not text; quote numbers, yes, no, on and off"],
        ),
        (
            f"nodes: [{NODE}]\n7: x",
            ["flow.dag.yaml:1: a key in this mapping is not text; quote numbers, yes, no, on and off"],
        ),
        (f"nodes: [{NODE}]\n? [a]\n: b", ["flow.dag.yaml:2: not valid YAML: found unhashable key"]),
        ("tags: {d: 2024-13-45}", ["flow.dag.yaml: not valid YAML: month must be in 1..12"]),
        ("nodes: &all [*all]", [TOO_MANY]),
        ("".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9 if n else ['x'])}]\n" for n in range(30)), [TOO_MANY]),
        (
            "".join(
                f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 9)}]}}\n" if n else "k0: &k0 {a: 1}\n"
                for n in range(30)
            ),
            [TOO_MANY],
        ),
        (f"nodes:\n- &first {NODE}\n- {{<<: *first, name: b}}", []),
        ("nodes: [\n", ["flow.dag.yaml:2: not valid YAML: expected the node content, but found '<stream end>'"]),
        ("a: 1\n\tb: 2\n", ["flow.dag.yaml:2: not valid YAML: found character '\\t' that cannot start any token"]),
        ("a: *nowhere", ["flow.dag.yaml:1: not valid YAML: found undefined alias 'nowhere'"]),
        (
            "a: !!python/object:os.system {}",
            [
                (
                    "flow.dag.yaml:1: not valid YAML: could not determine a constructor for the tag "
                    "'tag:yaml.org,2002:python/object:os.system'"
                )
            ],
        ),
        ("a: 1\n---\nb: 2", ["flow.dag.yaml:2: not valid YAML: but found another document"]),
        (f"nodes: [{NODE}]\nnodes: []", ["flow.dag.yaml:2: nodes: duplicate key; YAML would use the last one"]),
        (
            "nodes:\n- name: a\n  type: python\n  name: b",
            ["flow.dag.yaml:4: nodes[0].name: duplicate key; YAML would use the last one"],
        ),
        (
            f"nodes: [{NODE}]\nextra: 1\ninputs: {{q: {{type: int, more: 1}}}}",
            [
                "warning flow.dag.yaml:2: extra: unknown key, ignored",
                "warning flow.dag.yaml:3: inputs.q.more: unknown key, ignored",
            ],
        ),
        (
            "nodes:\n- name: a\n  type: python\n  source:\n    path: a.py\n    lang: x\n  retries: 3",
            [
                "warning flow.dag.yaml:7: nodes[0].retries: unknown key, ignored",
                "warning flow.dag.yaml:6: nodes[0].source.lang: unknown key, ignored",
            ],
        ),
        (
            "nodes:\n- type: python\n- name: b",
            [
                "flow.dag.yaml:2: nodes[0].name: this key is required",
                "flow.dag.yaml:3: nodes[1].type: this key is required",
            ],
        ),
        (
            f"nodes: [{NODE}]\ninputs:\n  q: {{default: 1}}\n  r: {{type: text}}",
            [
                "flow.dag.yaml:3: inputs.q.type: this key is required",
                (
                    "flow.dag.yaml:4: inputs.r.type: input should be 'int', 'double', 'bool', 'string', 'secret', "
                    "'prompt_template', 'list', 'object', 'file_path', 'image', 'assistant_definition', 'File' or 'file'"
                ),
            ],
        ),
        (
            "nodes:\n- {name: a, type: csharp, source: {path: a.py}}",
            ["flow.dag.yaml:2: nodes[0].type: there is no node kind 'csharp'; the kinds are " + ", ".join(KINDS)],
        ),
        (
            "nodes:\n- name: a\n  type: python\n  source: {path: a.py}\n  activate: {when: x}",
            ["flow.dag.yaml:5: nodes[0].activate.is: this key is required"],
        ),
    ],
)
def test_shape_of_the_file(tmp_path: Path, dag: str, expected: list[str]) -> None:
    assert problems(tmp_path, dag) == expected


def nodes(*parts: str) -> str:
    """Return a flow of Python nodes, each with these further keys; the first of them stands in line 4."""
    text = ""
    for name, part in zip("abc", parts, strict=False):
        keys = indent(part or "comment:", "  ")
        source = "" if "source:" in part else "  source: {path: a.py}\n"
        text += f"- name: {name}\n  type: python\n{keys}\n{source}"
    return f"nodes:\n{text}"


@pytest.mark.parametrize(
    ("dag", "expected"),
    [
        (
            nodes("inputs: {x: '${z.output}'}"),
            ["flow.dag.yaml:4: nodes[0].inputs.x: ${z.output}: there is no node 'z'; there are a"],
        ),
        (
            nodes("inputs:\n  x: '${inputs.q}'"),
            ["flow.dag.yaml:5: nodes[0].inputs.x: ${inputs.q}: there is no input 'q'; there are none"],
        ),
        (
            nodes("activate: {when: '${z}', is: 1}"),
            ["flow.dag.yaml:4: nodes[0].activate.when: ${z.output}: there is no node 'z'; there are a"],
        ),
        (
            nodes("") + "outputs:\n  o: {reference: '${z.output.x}'}",
            ["flow.dag.yaml:7: outputs.o.reference: ${z.output.x}: there is no node 'z'; there are a"],
        ),
        (
            nodes("inputs: {x: '${a.outputs}'}"),
            [
                (
                    "flow.dag.yaml:4: nodes[0].inputs.x: ${a.outputs}: after a node's name only .output may follow, "
                    "then properties"
                )
            ],
        ),
        (nodes("inputs: {x: '${a}'}"), ["flow.dag.yaml:2: nodes[0]: nodes wait for each other: a -> a"]),
        (
            nodes("inputs: {x: '${b}'}", "inputs: {x: '${a}'}"),
            ["flow.dag.yaml:6: nodes[1]: nodes wait for each other: b -> a -> b"],
        ),
        (
            nodes("activate: {when: '${b}', is: 1}", "inputs: {x: '${a}'}"),
            ["flow.dag.yaml:6: nodes[1]: nodes wait for each other: b -> a -> b"],
        ),
        (f"nodes:\n- {NODE}\n- {NODE}\n- {NODE}", ["flow.dag.yaml:1: nodes: 3 nodes are named 'a'"]),
        (nodes("source: {}"), ["flow.dag.yaml:4: nodes[0].source.path: node 'a' names no file"]),
        (
            nodes("source: {path: gone.py}"),
            ["flow.dag.yaml:4: nodes[0].source.path: there is no file 'gone.py' in the flow's folder"],
        ),
        (
            nodes("source: {path: sub}"),
            ["flow.dag.yaml:4: nodes[0].source.path: there is no file 'sub' in the flow's folder"],
        ),
        (
            nodes("source: {path: ../outside.py}"),
            ["flow.dag.yaml:4: nodes[0].source.path: '../outside.py' lies outside the flow's folder"],
        ),
        (
            nodes("source: {path: sub/../../outside.py}"),
            ["flow.dag.yaml:4: nodes[0].source.path: 'sub/../../outside.py' lies outside the flow's folder"],
        ),
        (nodes("source: {path: sub/../a.py}"), []),
        (nodes("source: {path: link.py}"), []),
        (
            nodes("") + "inputs:\n  n:\n    type: int\n    default: many",
            ["flow.dag.yaml:9: inputs.n.default: expected an integer, got 'many'"],
        ),
        (
            nodes("")
            + "inputs:\n  p: {type: string, is_chat_input: true}\n  q: {type: string, is_chat_input: true}\noutputs: {o: {}}",
            ["flow.dag.yaml:6: inputs: only one may have this chat role; p and q have it"],
        ),
        (
            nodes("") + "inputs:\n  p: {type: list, is_chat_history: true}\n  chat_history: {type: list}",
            ["flow.dag.yaml:6: inputs: only one may have this chat role; p and chat_history have it"],
        ),
        (
            nodes("") + "outputs:\n  o: {is_chat_output: true}\n  p: {is_chat_output: true}",
            ["flow.dag.yaml:6: outputs: only one may have this chat role; o and p have it"],
        ),
        (
            nodes("") + "inputs: {q: {type: string, is_chat_input: true}}\noutputs: {o: {}, p: {}}",
            ["flow.dag.yaml:7: outputs: the flow has the chat input 'q', but no output with is_chat_output: true"],
        ),
    ],
)
def test_what_the_file_says(tmp_path: Path, dag: str, expected: list[str]) -> None:
    (tmp_path / "outside.py").touch()
    (tmp_path / "flow/sub").mkdir(parents=True)
    (tmp_path / "flow/link.py").symlink_to(tmp_path / "outside.py")
    assert problems(tmp_path, dag) == expected


def test_unsupported_features_are_named_all_at_once(tmp_path: Path) -> None:
    dag = """
        language: csharp
        inputs: {helper: {type: assistant_definition}}
        environment_variables: {A: "${nowhere.key}"}
        additional_includes: [../x, ../flow]
        nodes:
        - {name: a, type: python, source: {type: package, path: a.py}}
        """
    assert problems(tmp_path, dag) == [
        "flow.dag.yaml:4: additional_includes[0]: there is no file or folder '../x'; paths start at the flow's folder",
        "flow.dag.yaml:2: inputs.helper.type: inputs of type 'assistant_definition' are not supported",
        (
            "flow.dag.yaml:3: environment_variables.A: ${nowhere.key}: there is no connection 'nowhere'; "
            "the connections are offline"
        ),
        "flow.dag.yaml:1: language: C# flows are not supported",
    ]


def test_file_nested_too_deep_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "[" * 5000 + "]" * 5000) == ["flow.dag.yaml: not valid YAML: nested too deep"]
