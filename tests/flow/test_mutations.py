"""Whatever is wrong with a flow's file is told as a problem of that file: examples with random changes never crash."""

import ast
import random
import re
from collections.abc import Iterator, MutableMapping
from copy import deepcopy
from datetime import date
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from flowpod.serving.process import problems_of
from flowpod.settings import Settings
from tests.support.documents import blocks
from tests.support.flows import write_flow
from tests.support.serving import ROOT

LONG = "a" * 300
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 2**70, 1e300, float("inf"), float("nan"), date(2020, 1, 1), b"\xff"),
    *("", "x", "a b", "\0", "=", "\u00e9", "\U0001f600", LONG, f"{LONG}/b", "..", "../flow", "/nowhere", "~", "a.py"),
    *("${", "${}", "${.}", "${inputs.}", "${inputs.x}", "${a.output[99999999999999999999]}", "${item}", "${index}"),
    *(f"${{a.output[{'9' * 5000}]}}", "${session.x}", "${loop.x}", "${env:X}", "{{ x", "{% if %}", "(", "<x>"),
    *([], [[]], [None], [1], ["a"], [{}], {}, {"a": 1}, {1: 2}, {"": ""}, {None: None}, {"name": []}, {"a", "b"}),
    *("llm", "python", "prompt", "custom_llm", "condition", "aggregate", "assign", "template", "output", "batch"),
    *("loop", "list", "int", "object", "image", "File", "package", "package_with_prompt", "fail", "session.x"),
)
TEXTS: tuple[str, ...] = (
    "!!int ",
    "!!bool ",
    "!!timestamp ",
    "!!binary ",
    "&a ",
    "*a ",
    '"\\ud83d"',
    '"\\UFFFFFFFF"',
    "0x_",
    "2024-13-45",
)
TEXTS += (
    "{",
    "[",
    "- ",
    ": ",
    "? ",
    "<<: ",
    "\t",
    "\0",
    "\x85",
    "---\n",
    "%",
    "!",
    "|\n",
    "'",
    "9" * 5000,
    "\n",
    f"0x{'f' * 5000}\n",
)


def examples() -> list[dict[str, Any]]:
    """Return the flows that stand in the documentation and in tests."""
    texts = [text for path in (ROOT / "docs").glob("*.md") for kind, text in blocks(path) if kind == "yaml"]
    for path in (ROOT / "tests").rglob("test_*.py"):
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        texts += [dedent(text) for text in constants if isinstance(text, str) and "nodes:\n" in text]
    found = []
    for text in texts:
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # what a test of such files writes
            continue
        if isinstance(content, dict) and "nodes" in content:
            found.append(content)
    return found


EXAMPLES = examples()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def part(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


def some_value(chance: random.Random) -> Any:
    if chance.random() < 0.7:
        return deepcopy(chance.choice(VALUES))
    example = chance.choice(EXAMPLES)
    return deepcopy(part(example, chance.choice(list(places(example)))))


def changed(chance: random.Random, example: dict[str, Any]) -> dict[str, Any]:
    """Return the example with a few of its parts replaced, added or gone."""
    example = deepcopy(example)
    keys = [key for one in EXAMPLES for place in places(one) for key in place[-1:] if isinstance(key, str)]
    for _ in range(chance.randint(1, 3)):
        if not example:
            break
        *above, key = chance.choice(list(places(example))[1:])
        around = part(example, tuple(above))
        match chance.choice(["replace", "replace", "replace", "add", "remove"]):
            case "add" if isinstance(around, list):
                around.append(some_value(chance))
            case "add":
                around[chance.choice(keys)] = some_value(chance)
            case "remove":
                del around[key]
            case _:
                around[key] = some_value(chance)
    return example


def scribbled(chance: random.Random, text: str) -> str:
    """Return the text with something put into it, in half of all cases."""
    if chance.random() < 0.5:
        return text
    place = chance.choice([match.end() for match in re.finditer(r"[:\-\s]", text)])
    return text[:place] + chance.choice(TEXTS) + text[place + chance.randint(0, 2) :]


class Environment(dict[str, str]):
    """Takes what a process's environment takes, and fails as that does."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            if not name or "=" in name or "\0" in name + value:
                raise ValueError(name)
            self[name] = value


def problem_lines(folder: Path, text: str, environ: MutableMapping[str, str]) -> list[str]:
    """Return the problems of a flow with this text, as `flowpod check` prints them."""
    (folder / "flow.dag.yaml").write_text(text)
    return [str(problem) for problem in problems_of(folder, Settings(), environ)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    names = {name for example in EXAMPLES for name in re.findall(r"[\w-]+\.(?:py|jinja2)", str(example))}
    code = "from promptflow.core import tool\n\n@tool\ndef act(how='', **needed):\n    return how\n"
    files = {name: code if name.endswith(".py") else "{{ question }}" for name in names}
    return write_flow(tmp_path / "flow", "", {**files, "connections.yaml": "model: {type: open_ai, api_key: k}\n"})


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_example_has_problems_and_no_crash(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    assert len(EXAMPLES) > 50
    for _ in range(75):
        text = scribbled(chance, yaml.safe_dump(changed(chance, chance.choice(EXAMPLES)), allow_unicode=True))
        try:
            lines = problem_lines(folder, text, Environment())
        except Exception as error:
            error.add_note(text)
            raise
        "\n".join(lines).encode()


NODE = "{name: a, type: python, source: {path: a.py}}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "nodes: [{name: [a], use_variants: true}]\nnode_variants: {a: {}}",
            "flow.dag.yaml:1: nodes[0].use_variants: node ['a'] has no variants under node_variants",
        ),
        (
            "nodes: [{name: a, use_variants: true}]\nnode_variants: {a: {default_variant_id: x, variants: 3}}",
            "flow.dag.yaml:2: node_variants.a.default_variant_id: there is no variant 'x' with a node; there are none",
        ),
        (
            f"nodes: [{{name: a, type: python, source: {{path: {LONG}}}}}]",
            f"flow.dag.yaml:1: nodes[0].source.path: there is no file '{LONG}' in the flow's folder",
        ),
        (
            f"nodes: [{NODE}]\nadditional_includes: [{LONG}]",
            f"flow.dag.yaml:2: additional_includes[0]: there is no file or folder '{LONG}'; paths start at the flow's folder",
        ),
        (
            f'nodes: [{NODE}]\nadditional_includes: ["\\0"]',
            "flow.dag.yaml:2: additional_includes[0]: there is no file or folder '\\x00'; paths start at the flow's folder",
        ),
        (
            f"nodes: [{NODE}]\nadditional_includes: [../a.py]",
            "flow.dag.yaml: additional_includes: the included files cannot be copied: ",
        ),
        (
            f"nodes: [{NODE}]\nenvironment_variables: {{a=b: x}}",
            "flow.dag.yaml:2: environment_variables.a=b: not a valid name or value of an environment variable",
        ),
        (
            f'nodes: [{NODE}]\nenvironment_variables: {{a: "\\0"}}',
            "flow.dag.yaml:2: environment_variables.a: not a valid name or value of an environment variable",
        ),
        (
            'a: !!int ""',
            "flow.dag.yaml: not valid YAML: a value does not fit its tag, such as !!int, or has an invalid escape",
        ),
        ("a: 2024-13-45", "flow.dag.yaml: not valid YAML: month must be in 1..12"),
        (
            'nodes: ["\\ud83d"]',
            r"flow.dag.yaml:1: nodes[0]: half of a surrogate pair, such as \ud83d, is not text; write the character itself",
        ),
    ],
)
def test_what_once_was_a_crash(folder: Path, text: str, problem: str) -> None:
    (folder.parent / "a.py").mkdir()  # a folder where the flow has a file
    (folder / "a.py").touch()
    assert any(line.startswith(problem) for line in problem_lines(folder, text, Environment()))
