"""Where control nodes meet: branches outside a batch, parts that are not there, items that fail."""

from pathlib import Path
from typing import Any

import pytest

from runtime.run.events import RunTerminated
from tests.run.test_control import flow_in, node, outcome
from tests.support.flows import events_of, problems_of, service_of


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
async def test_an_output_that_finds_nothing_is_the_flows_mistake_and_no_bug(
    tmp_path: Path, outputs: str, more: str
) -> None:
    dag = f"""
    variables:
      t: {{type: object, default: {{}}}}
    outputs:
      out: {{type: object, reference: {outputs}}}
    nodes:
    - {node("n", value="text", fail="default: x" in more)}{more}}}
    - {node("gone", value="x")}, after: [n], activate: {{when: no, is: yes}}}}
    """
    async with service_of(flow_in(tmp_path, dag)) as service:
        end = (await events_of(service, {}))[-1]
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
