import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowpod.flow.model import Activation, Flow, Node, Output
from flowpod.flow.plan import Graph, Plan
from flowpod.flow.references import Scope, parse_value
from flowpod.flow.wiring import Wiring

# A node is given by its references and, perhaps, its condition: (references, when, is).
Sketch = Mapping[str, tuple[Any, ...]]
CHAIN: Sketch = {"a": ([],), "b": (["${a.output}"],), "c": (["${b.output}"],)}
DIAMOND: Sketch = {"a": ([],), "b": (["${a}"],), "c": (["${a}"],), "d": (["${b}", "${c}"],)}


def flow_of(sketch: Sketch, outputs: Mapping[str, Any] | None = None) -> Flow:
    nodes = {}
    for index, (name, (references, *condition)) in enumerate(sketch.items()):
        activate = Activation(parse_value(condition[0], sketch), condition[1]) if condition else None
        inputs = {f"input{number}": parse_value(value, sketch) for number, value in enumerate(references)}
        nodes[name] = Node(name, "python", index, inputs, None, activate=activate)
    found = {name: Output(name, "string", parse_value(value, sketch)) for name, value in (outputs or {}).items()}
    return Flow(Path(), {}, found, nodes, {})


def course(sketch: Sketch, values: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None) -> str:
    """Run the plan, each round's nodes completed in order, and return it as text: +start, -bypass, !fail; | rounds."""
    plan = Plan(Graph.of(flow_of(sketch).nodes), Scope(inputs or {}))
    rounds = []
    while steps := plan.ready():
        rounds.append(
            " ".join({"start": "+", "bypass": "-", "fail": "!"}[step.action] + step.node.name for step in steps)
        )
        for step in steps:
            if step.action == "start":
                plan.complete(step.node.name, (values or {}).get(step.node.name))
            elif step.action == "fail":
                return " | ".join(rounds)
    assert plan.done
    return " | ".join(rounds)


@pytest.mark.parametrize(
    ("sketch", "expected"),
    [
        ({"a": ([],)}, "+a"),
        ({"a": ([],), "b": ([],)}, "+a +b"),
        ({"b": ([],), "a": ([],)}, "+b +a"),
        (CHAIN, "+a | +b | +c"),
        (dict(reversed(list(CHAIN.items()))), "+a | +b | +c"),
        (DIAMOND, "+a | +b +c | +d"),
        (dict(reversed(list(DIAMOND.items()))), "+a | +c +b | +d"),
        ({"a": ([],), "b": (["${a}", "${a.output.x}", "${a.output.y}"],)}, "+a | +b"),
        ({"a": ([],), "b": (["${inputs.x}", "literal", 5, "see ${a}"],)}, "+a +b"),
        ({"a": ([],), "b": ([], "${a.output}", None)}, "+a | +b"),
        ({"z": (["${y}"],), "y": ([],), "x": ([],), "w": (["${y}"],)}, "+y +x | +z +w"),
    ],
)
def test_nodes_start_after_what_they_refer_to_in_the_order_of_the_file(sketch: Sketch, expected: str) -> None:
    assert course(sketch) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("${inputs.kind}", "chat"), "+a"),
        (("${inputs.kind}", "other"), "-a"),
        (("${inputs.count}", 3), "+a"),
        (("${inputs.count}", "3"), "-a"),
        (("${inputs.nothing}", None), "+a"),
        (("${inputs.flag}", True), "+a"),
        (("${inputs.items}", [1, 2]), "+a"),
        (("literal", "literal"), "+a"),
        (("literal", "other"), "-a"),
    ],
)
def test_condition_compares_a_value_with_is(condition: tuple[Any, Any], expected: str) -> None:
    inputs = {"kind": "chat", "count": 3, "flag": True, "items": [1, 2]}
    assert course({"a": ([], *condition)}, inputs=inputs) == expected


def test_condition_compares_a_part_of_a_nodes_value() -> None:
    sketch: Sketch = {"a": ([],), "b": ([], "${a.output.kind}", "x"), "c": ([], "${a.output.kind}", "y")}
    assert course(sketch, {"a": {"kind": "x"}}) == "+a | +b -c"


SPLIT: Sketch = {"r": ([],), "x": ([], "${r}", "x"), "y": ([], "${r}", "y")}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # Rule 1: bypassed nodes count as settled.
        ({"z": (["${x}", "${y}"],)}, "+r | +x -y | +z"),
        # Rule 2: a condition on a bypassed node bypasses, even where null is what is asked for.
        ({"z": ([], "${y}", None)}, "+r | +x -y -z"),
        ({"z": (["${x}"], "${y.output}", "v")}, "+r | +x -y | -z"),
        ({"z": (["${x}"], "${y.output.deep.key}", "v")}, "+r | +x -y | -z"),
        # Rule 2: with a condition, nothing but the condition counts.
        ({"z": (["${y}"], "${x}", "done")}, "+r | +x -y | +z"),
        ({"z": (["${y}"], "${inputs.go}", 1)}, "+r | +x -y +z"),
        # Rule 3: without a condition a node is bypassed only when all that it refers to is.
        ({"z": (["${y}"],)}, "+r | +x -y -z"),
        ({"z": (["${y}", "${y.output.a}"],)}, "+r | +x -y -z"),
        ({"z": (["${y}", "${inputs.go}", "literal"],)}, "+r | +x -y -z"),
        ({"z": (["${y}", "${r}"],)}, "+r | +x -y +z"),
        # Bypassing goes on through the nodes behind, in the same round.
        ({"z": (["${y}"],), "w": (["${z}"],), "v": (["${w}", "${x}"],)}, "+r | +x -y -z -w | +v"),
    ],
)
def test_bypass(more: Sketch, expected: str) -> None:
    assert course({**SPLIT, **more}, {"r": "x", "x": "done"}, {"go": 1}) == expected


def test_reference_to_a_bypassed_node_is_none() -> None:
    scope = Scope({})
    plan = Plan(Graph.of(flow_of({"a": ([], "no", "yes")}).nodes), scope)
    assert [step.action for step in plan.ready()] == ["bypass"]
    assert plan.done
    assert scope.resolve(parse_value("${a.output.x[0]}", ["a"])) is None
    assert scope.outputs == {}


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("${a.output.kind}", "activate.when: ${a.output.kind}: there is no key 'kind'; the keys are 'other'"),
        ("${a.output.list[3]}", "activate.when: ${a.output.list[3]}: there is no key 'list'; the keys are 'other'"),
        ("${a.output.other.x}", "activate.when: ${a.output.other.x}: int has no 'x'"),
    ],
)
def test_condition_whose_value_is_not_there_fails_the_node(when: str, reason: str) -> None:
    plan = Plan(Graph.of(flow_of({"a": ([],), "b": ([], when, 1)}).nodes), Scope({}))
    assert [step.action for step in plan.ready()] == ["start"]
    plan.complete("a", {"other": 1})
    assert [(step.action, step.reason) for step in plan.ready()] == [("fail", reason)]
    assert not plan.done


def test_condition_on_a_value_whose_own_code_fails_fails_the_node() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise OSError("no comparison today")

        __hash__ = object.__hash__

    plan = Plan(Graph.of(flow_of({"a": ([],), "b": ([], "${a.output}", 1)}).nodes), Scope({}))
    plan.ready()
    plan.complete("a", Odd())
    assert [(step.action, step.reason) for step in plan.ready()] == [
        ("fail", "activate.when: OSError: no comparison today")
    ]


def test_each_node_is_handed_out_once() -> None:
    plan = Plan(Graph.of(flow_of(DIAMOND).nodes), Scope({}))
    assert [step.node.name for step in plan.ready()] == ["a"]
    assert plan.ready() == []
    plan.complete("a", 1)
    assert [step.node.name for step in plan.ready()] == ["b", "c"]
    plan.complete("c", 1)
    assert plan.ready() == []
    assert not plan.done
    plan.complete("b", 1)
    assert [step.node.name for step in plan.ready()] == ["d"]
    plan.complete("d", 1)
    assert plan.done


def test_plans_of_one_graph_do_not_share_their_state() -> None:
    graph = Graph.of(flow_of(CHAIN).nodes)
    first, second = Plan(graph, Scope({})), Plan(graph, Scope({}))
    first.ready()
    first.complete("a", 1)
    assert [step.node.name for step in first.ready()] == ["b"]
    assert [step.node.name for step in second.ready()] == ["a"]


@pytest.mark.parametrize(
    ("sketch", "expected"),
    [
        (CHAIN, []),
        (DIAMOND, []),
        ({"a": (["${a}"],)}, ["a"]),
        ({"a": (["${b}"],), "b": (["${a}"],)}, ["b", "a"]),
        ({"a": (["${c}"],), "b": (["${a}"],), "c": (["${b}"],)}, ["b", "c", "a"]),
        ({"a": ([], "${b}", 1), "b": (["${a}"],)}, ["b", "a"]),
        ({"tail": (["${a}"],), "a": (["${b}"],), "b": (["${a}"],), "free": ([],)}, ["b", "a"]),
    ],
)
def test_circle_is_found(sketch: Sketch, expected: list[str]) -> None:
    assert Graph.of(flow_of(sketch).nodes).cycle() == expected


def test_outputs_that_are_a_nodes_whole_value_are_fed_by_it() -> None:
    outputs = {"o1": "${a}", "o2": "${a.output}", "o3": "${a.output.x}", "o4": "text", "o5": "${inputs.q}"}
    assert Wiring.of(flow_of(CHAIN, outputs)).feeds == {"a": ("o1", "o2")}


@st.composite
def sketches(draw: st.DrawFn) -> Sketch:
    """Return an acyclic flow: each node refers to some of those before it, in a file of any order."""
    count = draw(st.integers(1, 12))
    nodes: dict[str, tuple[Any, ...]] = {}
    for number in range(count):
        earlier = [f"${{n{other}.output}}" for other in range(number)]
        references = draw(st.lists(st.sampled_from(earlier), max_size=4)) if earlier else []
        condition = draw(st.sampled_from([*earlier, "${inputs.x}"]))
        nodes[f"n{number}"] = (references, condition, draw(st.integers(0, 1))) if draw(st.booleans()) else (references,)
    return {name: nodes[name] for name in draw(st.permutations(list(nodes)))}


@given(sketches(), st.integers(0, 1), st.randoms(use_true_random=False))
def test_every_node_is_settled_once_after_its_dependencies(sketch: Sketch, value: int, chance: random.Random) -> None:
    graph, scope = Graph.of(flow_of(sketch).nodes), Scope({"x": 1})
    plan = Plan(graph, scope)
    running: list[str] = []
    settled: list[str] = []
    while not plan.done:
        for step in plan.ready():
            assert graph.dependencies[step.node.name] <= set(settled)
            (settled if step.action == "bypass" else running).append(step.node.name)
        if running:
            name = running.pop(chance.randrange(len(running)))
            settled.append(name)
            plan.complete(name, value)
        else:
            assert plan.done
    assert sorted(settled) == sorted(sketch)
    assert plan.ready() == []
    assert set(scope.outputs) | scope.bypassed == set(sketch)
    assert not scope.bypassed & set(scope.outputs)


@given(sketches(), st.integers(0, 1), st.randoms(use_true_random=False))
def test_bypassing_does_not_depend_on_the_order_of_completion(
    sketch: Sketch, value: int, chance: random.Random
) -> None:
    graph, bypassed = Graph.of(flow_of(sketch).nodes), []
    for pick in (lambda running: running[0], chance.choice):
        scope = Scope({"x": 1})
        plan = Plan(graph, scope)
        running: list[str] = []
        while not plan.done:
            running += [step.node.name for step in plan.ready() if step.action == "start"]
            if running:
                running.remove(name := pick(running))
                plan.complete(name, value)
        bypassed.append(scope.bypassed)
    assert bypassed[0] == bypassed[1]
