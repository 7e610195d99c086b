"""Where control nodes meet: branches outside a batch, parts that are not there, items that fail."""

from pathlib import Path
from typing import Any

import pytest

from flowpod.engine.events import NodeUpdated, RunTerminated
from tests.engine.test_control import flow_in, node, outcome
from tests.support.flows import problems_of, run_flow, write_flow


@pytest.mark.parametrize(("value", "results"), [(1, ["v", "v"]), (2, [None, None])])
async def test_nodes_in_a_batch_may_follow_a_branch_outside(tmp_path: Path, value: int, results: list[Any]) -> None:
    dag = f"""
    inputs:
      n: {{type: int}}
      items: {{type: list, default: [1, 2]}}
    outputs:
      out: {{type: list, reference: "${{each.output}}"}}
    nodes:
    - name: route
      type: condition
      inputs: {{n: "${{inputs.n}}"}}
      branches: [{{name: one, any: [{{all: [{{input: n, operator: equals, value: 1}}]}}]}}]
    - name: each
      type: batch
      inputs: {{items: "${{inputs.items}}"}}
      result: ${{x.output}}
      nodes:
      - {node("x", value="v")}, after: [route.one]}}
    """
    assert (await outcome(tmp_path, dag, {"n": value}))[1] == {"out": results}


@pytest.mark.parametrize(
    ("outputs", "more"),
    [
        ('{a: "${n.output.key}", b: "${gone.output}"}', ""),
        ('"${n.output.key}"', ", on_error: {branch: b}"),
        ('"${n.output.key}"', ", on_error: {default: x}"),
        ('"${session.t.nope}"', ""),
    ],
)
async def test_an_output_that_finds_nothing_is_an_invalid_reference(tmp_path: Path, outputs: str, more: str) -> None:
    dag = f"""
    variables:
      t: {{type: object, default: {{}}}}
    outputs:
      out: {{type: object, reference: {outputs}}}
    nodes:
    - {node("n", value="text", fail="default: x" in more)}{more}}}
    - {node("gone", value="x")}, after: [n], activate: {{when: no, is: yes}}}}
    """
    end = (await run_flow(flow_in(tmp_path, dag), {}))[-1]
    assert isinstance(end, RunTerminated)
    if "branch" in more:
        assert end.status == "Completed"
        return
    assert end.status == "Failed"
    assert end.error is not None
    assert (end.error.code, "outputs.out: " in end.error.message) == ("invalid_reference", True)


async def test_an_output_node_waits_for_what_it_needs_whole(tmp_path: Path) -> None:
    dag = f"""
    outputs:
      out: {{type: string}}
    nodes:
    - name: say
      type: output
      inputs: {{t: "${{g.output}}"}}
      activate: {{when: "${{g.output}}", is: "yes"}}
      text: "[{{{{ t }}}}]"
      to: out
    - {{name: part, type: output, inputs: {{p: "${{o.output.k}}", w: "${{o.output}}"}}, text: "{{{{ p }}}}", to: out}}
    - {node("g", value="yes")}}}
    - {{name: o, type: template, template: '{{"k": "K"}}', format: json}}
    """
    assert (await outcome(tmp_path, dag))[1] == {"out": "[yes]K"}


async def test_after_a_failed_item_no_further_one_begins(tmp_path: Path) -> None:
    dag = f"""
    inputs:
      items: {{type: list}}
    nodes:
    - name: each
      type: batch
      inputs: {{items: "${{inputs.items}}"}}
      nodes:
      - {node("x", value="${item}", fail=True)}}}
    """
    events, _ = await outcome(tmp_path, dag, {"items": [1, 2, 3]})
    assert events == [
        "started",
        "each Running",
        "each[0].x Running",
        "each[0].x Failed",
        "each Failed",
        "terminated Failed",
    ]


async def test_a_cancelled_batch_tells_of_every_node_in_it(tmp_path: Path) -> None:
    dag = f"""
    inputs:
      items: {{type: list}}
    nodes:
    - name: each
      type: batch
      timeout_s: 0.1
      on_error: {{default: []}}
      inputs: {{items: "${{inputs.items}}"}}
      nodes:
      - name: again
        type: loop
        max_rounds: 2
        nodes:
        - {node("x", wait=60)}}}
    """
    events, _ = await outcome(tmp_path, dag, {"items": [1, 2, 3]})
    running = {line.split()[0] for line in events if line.endswith("Running")}
    ended = {line.split()[0] for line in events if line.endswith(("Completed", "Canceled", "Failed"))}
    assert running <= ended
    assert events[-1] == "terminated Completed"


def test_a_loop_variable_needs_a_loop(tmp_path: Path) -> None:
    dag = f"""
    inputs:
      items: {{type: list}}
    nodes:
    - name: each
      type: batch
      inputs: {{items: "${{inputs.items}}"}}
      nodes:
      - {node("x", value="${loop.n}")}}}
    """
    assert [problem.message for problem in problems_of(flow_in(tmp_path, dag))] == [
        "${loop.n} stands only inside a loop"
    ]


async def test_a_condition_inside_a_loop_that_finds_nothing_is_told_of_by_its_path(tmp_path: Path) -> None:
    dag = f"""
    nodes:
    - name: again
      type: loop
      max_rounds: 3
      nodes:
      - {node("x", value="${index}")}}}
      - {node("y", value="a")}, activate: {{when: "${{x.output.k}}", is: 1}}}}
    """
    events = await run_flow(flow_in(tmp_path, dag), {})
    failed = [event for event in events if isinstance(event, NodeUpdated) and event.status == "Failed"]
    assert [(event.node, event.error and event.error.param) for event in failed] == [
        ("again[0].y", "again[0].y"),
        ("again", "again"),
    ]
    assert failed[0].error is not None
    assert failed[0].error.message == "node 'again[0].y': activate.when: ${x.output.k}: int has no 'k'"


SESSION_OUTPUTS = f"""
variables:
  seen: {{type: list, default: [1]}}
  n: {{type: int, default: 0}}
outputs:
  first: {{type: string, reference: "${{b.output}}"}}
  seen: {{type: list, reference: "${{session.seen}}"}}
  both: {{type: object, reference: {{n: "${{session.n}}", b: "${{b.output}}"}}}}
nodes:
- {node("b", value="B")}}}
- name: keep
  type: assign
  after: [b]
  assignments: [{{variable: session.seen, operation: append, value: 2}}, {{variable: session.n, value: "7"}}]
"""


async def test_an_output_shows_a_session_variable_as_it_is_at_the_end(tmp_path: Path) -> None:
    events, outputs = await outcome(tmp_path, SESSION_OUTPUTS)
    assert outputs == {"first": "B", "seen": [1, 2], "both": {"n": 7, "b": "B"}}
    assert events[-4:] == [
        "keep Completed",
        "seen whole [1, 2] Finished",
        "both whole {'n': 7, 'b': 'B'} Finished",
        "terminated Completed",
    ]


async def test_an_output_of_a_session_variable_is_absent_from_a_failed_run(tmp_path: Path) -> None:
    dag = SESSION_OUTPUTS + f"- {node('c', fail=True)}, after: [keep]}}\n"
    assert (await outcome(tmp_path, dag))[1] == {"first": "B"}


async def test_an_assign_nodes_value_is_what_the_variable_holds(tmp_path: Path) -> None:
    dag = SESSION_OUTPUTS.replace("${b.output}", "${keep.output}", 1).replace("{type: string,", "{type: object,", 1)
    assert (await outcome(tmp_path, dag))[1]["first"] == {"session.seen": [1, 2], "session.n": 7}


PATTERN = """
inputs:
  q: {{type: string}}
nodes:
- name: route
  type: condition
  inputs: {{q: "${{inputs.q}}"}}
  branches:
  - name: found
    any:
    - all:
      - {{input: q, operator: is_not_null}}
      - {{input: q, operator: matches, value: {route}}}
- name: again
  type: loop
  max_rounds: 1
  variables: {{text: {{type: string, default: x}}}}
  until:
  - all: [{{input: text, operator: matches, value: {again}}}]
  nodes:
  - {{name: say, type: template, template: hello}}
"""


def test_a_pattern_of_the_flow_that_is_none_is_named_at_load(tmp_path: Path) -> None:
    problems = problems_of(write_flow(tmp_path, PATTERN.format(route="'a(?=b)'", again=5)))
    assert [(problem.line, problem.key, problem.message) for problem in problems] == [
        (
            12,
            "nodes[0].branches[0].any[0].all[1].value",
            "node 'route': matches: 'a(?=b)' is not a regular expression of RE2: invalid perl operator: (?=",
        ),
        (
            18,
            "nodes[1].until[0].all[0].value",
            "node 'again': matches needs a comparison with a value of kind string, not number",
        ),
    ]


def test_a_pattern_that_is_one_is_no_problem(tmp_path: Path) -> None:
    assert problems_of(write_flow(tmp_path, PATTERN.format(route="'a|b'", again="''"))) == []


async def test_a_node_of_a_loop_that_is_tried_again_is_told_of_anew(tmp_path: Path) -> None:
    dag = """
    nodes:
    - name: again
      type: loop
      max_rounds: 1
      retry: {max: 1}
      nodes:
      - {name: first, type: python, source: {path: first.py}}
      - {name: slow, type: template, template: x, activate: {when: "${first.output}", is: true}}
      - {name: broken, type: template, template: "{{ 1 / 0 }}", activate: {when: "${first.output}", is: true}, after: [slow]}
    """
    flow = write_flow(
        tmp_path, dag, {"first.py": "calls = []\n\ndef invoke():\n    calls.append(1)\n    return len(calls) == 1\n"}
    )
    events = await run_flow(flow, {})
    slow = [event for event in events if isinstance(event, NodeUpdated) and event.node == "again[0].slow"]
    assert [event.status for event in slow] == ["Running", "Completed", "Bypassed"]
    assert slow[-1].duration == 0.0
