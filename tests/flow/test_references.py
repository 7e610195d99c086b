from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest

from flowpod.flow.model import Reference
from flowpod.flow.references import Scope, parse_value

NODES = ("fetch", "my-node", "a b", "inputs_", "output")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${inputs.question}", Reference("inputs", "question")),
        ("${flow.question}", Reference("inputs", "question")),
        ("${inputs.a.b}", Reference("inputs", "a.b")),
        ("${inputs.a b}", Reference("inputs", "a b")),
        ("${ inputs.question }", Reference("inputs", "question")),
        ("${fetch}", Reference("node", "fetch")),
        ("${fetch.output}", Reference("node", "fetch")),
        ("${fetch.output.text}", Reference("node", "fetch", ("text",))),
        ("${fetch.output.a.b}", Reference("node", "fetch", ("a", "b"))),
        ("${fetch.output.a['k']}", Reference("node", "fetch", ("a", "k"))),
        ('${fetch.output.a["k"]}', Reference("node", "fetch", ("a", "k"))),
        ("${fetch.output.a['k.l m']}", Reference("node", "fetch", ("a", "k.l m"))),
        ("${fetch.output.a['']}", Reference("node", "fetch", ("a", ""))),
        ("${fetch.output.a[0]}", Reference("node", "fetch", ("a", 0))),
        ("${fetch.output.a[0][12].b}", Reference("node", "fetch", ("a", 0, 12, "b"))),
        ("${fetch.output.0}", Reference("node", "fetch", ("0",))),
        ("${fetch.output.['k']}", Reference("node", "fetch", ("k",))),
        ("${fetch.output.größe}", Reference("node", "fetch", ("größe",))),
        ("${my-node.output}", Reference("node", "my-node")),
        ("${output.output}", Reference("node", "output")),
        ("${unknown.output}", Reference("node", "unknown")),
        ("${sys.session_id}", Reference("sys", "session_id")),
        ("${sys.instructions}", Reference("sys", "instructions")),
    ],
)
def test_reference_is_read(text: str, expected: Reference) -> None:
    assert parse_value(text, NODES) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "plain",
        "see ${fetch.output}",
        "${fetch.output} there",
        " ${fetch.output}",
        "$fetch",
        "{{ fetch }}",
        "${fetch",
        7,
        None,
        ["${fetch.output}"],
        {"a": "${fetch.output}"},
    ],
)
def test_other_value_stays_as_it_is(value: Any) -> None:
    assert parse_value(value, NODES) is value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${inputs}", "names no input: write ${inputs.NAME}"),
        ("${inputs.}", "names no input"),
        ("${flow}", "names no input"),
        ("${fetch.result}", "only .output may follow"),
        ("${fetch.outputs.x}", "only .output may follow"),
        ("${fetch.}", "only .output may follow"),
        ("${fetch.output[0]}", "only .output may follow"),
        ("${fetch.output['k']}", "only .output may follow"),
        ("${fetch.output.}", "properties are written"),
        ("${fetch.output.a.}", "properties are written"),
        ("${fetch.output.a..b}", "properties are written"),
        ("${fetch.output.a[x]}", "properties are written"),
        ("${fetch.output.a[-1]}", "properties are written"),
        ("${fetch.output.a['k]}", "properties are written"),
        ("${fetch.output.a b}", "properties are written"),
        ("${sys.time}", "there is no such variable; sys has session_id, user_id, run_id, turn, instructions"),
        ("${sys}", "there is no such variable"),
        ("${sys.output}", "there is no such variable"),
    ],
)
def test_malformed_reference_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^\$\{") as caught:
        parse_value(text, NODES)
    assert str(caught.value).startswith(text)
    assert message in str(caught.value)


def test_node_named_sys_keeps_its_name() -> None:
    assert parse_value("${sys.output.time}", ["sys"]) == Reference("node", "sys", ("time",))


@pytest.mark.parametrize(
    "text", ["${inputs.a}", "${fetch.output}", "${fetch.output.a.b}", "${fetch.output.a[0].b}", "${sys.turn}"]
)
def test_reference_is_shown_as_it_is_written(text: str) -> None:
    assert str(parse_value(text, NODES)) == text


@pytest.mark.parametrize("text", ["${fetch.output.a['k.l m']}", "${fetch.output.['0']}", "${fetch.output.['k l'].b}"])
def test_shown_reference_reads_as_the_same(text: str) -> None:
    reference = parse_value(text, NODES)
    assert parse_value(str(reference), NODES) == reference


@dataclass
class Answer:
    text: str
    parts: list[dict[str, int]]

    @property
    def length(self) -> int:
        return len(self.text)

    def shout(self) -> str:
        return self.text.upper()


SCOPE = Scope(
    inputs={"q": "hi", "nothing": None},
    sys={"turn": 3},
    outputs={
        "none": None,
        "text": "abc",
        "mapping": {"a": {"b": 1}, "list": [10, 20], "k l": True, "0": "zero", 0: "number"},
        "frozen": MappingProxyType({"a": 5}),
        "answer": Answer("hello", [{"n": 4}]),
        "pair": {"p": (1, 2)},
    },
    bypassed={"skipped"},
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("literal", "literal"),
        (None, None),
        ("${inputs.q}", "hi"),
        ("${inputs.nothing}", None),
        ("${sys.turn}", 3),
        ("${sys.user_id}", None),
        ("${none}", None),
        ("${text.output}", "abc"),
        ("${mapping.output.a.b}", 1),
        ("${mapping.output.a['b']}", 1),
        ("${mapping.output.list[1]}", 20),
        ("${mapping.output.['k l']}", True),
        ("${mapping.output.0}", "zero"),
        ("${frozen.output.a}", 5),
        ("${answer.output.text}", "hello"),
        ("${answer.output.parts[0].n}", 4),
        ("${answer.output.length}", 5),
        ("${pair.output.p[1]}", 2),
        ("${skipped.output}", None),
        ("${skipped.output.a.b}", None),
    ],
)
def test_reference_finds_its_value(value: Any, expected: Any) -> None:
    assert SCOPE.resolve(parse_value(value, ())) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${mapping.output.b}", "${mapping.output.b}: there is no key 'b'; the keys are 'a', 'list', 'k l', '0', 0"),
        ("${mapping.output.a.x.y}", "${mapping.output.a.x.y}: there is no key 'x'; the keys are 'b'"),
        ("${mapping.output.list[2]}", "${mapping.output.list[2]}: there is no item 2 in list"),
        ("${text.output.title}", "${text.output.title}: str has no 'title'"),
        ("${answer.output.shout}", "${answer.output.shout}: Answer has no 'shout'"),
        ("${none.output.a}", "${none.output.a}: NoneType has no 'a'"),
        ("${answer.output.more}", "${answer.output.more}: Answer has no 'more'"),
        ("${answer.output.text[0]}", "${answer.output.text[0]}: there is no item 0 in str"),
        ("${mapping.output.list.append}", "${mapping.output.list.append}: list has no 'append'"),
    ],
)
def test_missing_part_is_named(text: str, message: str) -> None:
    with pytest.raises(LookupError) as caught:
        SCOPE.resolve(parse_value(text, ()))
    assert caught.value.args[0] == message


def test_only_the_first_keys_of_a_large_mapping_are_named() -> None:
    scope = Scope({}, outputs={"big": {f"k{number}": 0 for number in range(1000)}})
    with pytest.raises(LookupError, match="'k19'") as caught:
        scope.resolve(parse_value("${big.output.x}", ()))
    assert "k20" not in caught.value.args[0]
