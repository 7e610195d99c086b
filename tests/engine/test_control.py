"""The control nodes: a flow's text goes in, the full list of events comes out."""

from pathlib import Path
from typing import Any

import pytest

from flowpod.engine.events import RunOutput
from tests.support.flows import (
    SESSION,
    event_lines,
    events_of,
    problems_of,
    run_error,
    run_flow,
    service_of,
    write_chat_flow,
    write_flow,
)
from tests.support.model_server import ModelServer

CODE = """
import asyncio

calls = []

async def invoke(value=None, fail=False, times=0, wait=0.0):
    calls.append(value)
    await asyncio.sleep(wait)
    if fail or len(calls) <= times:
        raise ValueError(f"no {value}")
    return value
"""
STREAM = """
import asyncio

async def invoke(text: str, wait: float = 0.0):
    for letter in text:
        await asyncio.sleep(wait)
        yield letter
"""


def flow_in(folder: Path, dag: str) -> Path:
    return write_flow(folder, dag, {"node.py": CODE, "talk.py": STREAM})


def node(name: str, **inputs: Any) -> str:
    given = ", ".join(f"{key}: {value!r}" for key, value in inputs.items())
    return f"{{name: {name}, type: python, source: {{path: node.py}}, inputs: {{{given}}}"


async def outcome(folder: Path, dag: str, inputs: dict[str, Any] | None = None) -> tuple[list[str], dict[str, Any]]:
    """Run the flow; return a line for each event, and the outputs."""
    events = await run_flow(flow_in(folder, dag), inputs or {})
    outputs: dict[str, Any] = {}
    for event in events:
        if isinstance(event, RunOutput):
            outputs[event.output] = outputs.get(event.output, "") + event.delta if event.is_stream else event.delta
    return event_lines(events), outputs


BRANCHES = f"""
inputs:
  n: {{type: int}}
outputs:
  out: {{type: string, reference: "${{join.output.picked}}"}}
nodes:
- name: route
  type: condition
  inputs: {{n: "${{inputs.n}}"}}
  branches:
  - {{name: big, any: [{{all: [{{input: n, operator: greater, value: 10}}]}}]}}
  - name: odd
    any:
    - {{all: [{{input: n, operator: equals, value: 1}}]}}
    - {{all: [{{input: n, operator: greater, value: 2}}, {{input: n, operator: less, value: 4}}]}}
  - {{name: rest}}
- {node("large", value="large")}, after: [route.big]}}
- {node("one_or_three", value="odd")}, after: [route.odd]}}
- {node("other", value="rest")}, after: [route.rest]}}
- name: join
  type: aggregate
  inputs: {{a: "${{large.output}}", b: "${{one_or_three.output}}", c: "${{other.output}}"}}
  groups: {{picked: [a, b, c]}}
"""


@pytest.mark.parametrize(("n", "taken"), [(11, "large"), (1, "odd"), (3, "odd"), (2, "rest"), (10, "rest")])
async def test_a_condition_takes_the_first_branch_that_holds(tmp_path: Path, n: int, taken: str) -> None:
    events, outputs = await outcome(tmp_path, BRANCHES, {"n": n})
    assert outputs == {"out": taken}
    assert sum(line.endswith("Bypassed") for line in events) == 2
    assert events[:3] == ["started", "route Running", "route Completed"]


async def test_a_comparison_of_types_that_do_not_compare_fails_the_node(tmp_path: Path) -> None:
    events, _ = await outcome(tmp_path, BRANCHES.replace("{type: int}", "{type: string}"), {"n": "11"})
    assert events == ["started", "route Running", "route Failed", "terminated Failed"]


async def test_after_runs_when_one_of_its_edges_was_taken(tmp_path: Path) -> None:
    dag = BRANCHES.replace(
        "groups: {picked: [a, b, c]}",
        "groups: {picked: [a, b, c]}\n" + f"- {node('both', value='x')}, after: [route.big, other]}}",
    )
    for n, state in ((11, "Completed"), (2, "Completed"), (1, "Bypassed")):
        events, _ = await outcome(tmp_path, dag, {"n": n})
        assert f"both {state}" in events


async def test_a_retry_is_told_of_once(tmp_path: Path) -> None:
    dag = f"""
    outputs:
      out: {{type: string, reference: "${{a.output}}"}}
    nodes:
    - {node("a", value="x", times=2)}, retry: {{max: 2, interval_ms: 1}}}}
    """
    events, outputs = await outcome(tmp_path, dag)
    assert events == ["started", "a Running", "a Completed", "out whole 'x' Finished", "terminated Completed"]
    assert outputs == {"out": "x"}


async def test_a_node_that_takes_too_long_fails(tmp_path: Path) -> None:
    dag = f"""
    nodes:
    - {node("a", value="x", wait=60)}, timeout_s: 0.05}}
    """
    error = run_error(await run_flow(flow_in(tmp_path, dag), {}))
    assert (error.code, error.message) == ("node_timeout", "node 'a': took longer than 0.05 s (its timeout_s)")


async def test_on_error_gives_a_default(tmp_path: Path) -> None:
    dag = f"""
    outputs:
      out: {{type: string, reference: "${{b.output}}"}}
    nodes:
    - {node("a", value="x", fail=True)}, on_error: {{default: {{text: instead}}}}}}
    - {node("b", value="${a.output.text}")}}}
    """
    events, outputs = await outcome(tmp_path, dag)
    assert outputs == {"out": "instead"}
    assert events[1:4] == ["a Running", "a Completed", "b Running"]


@pytest.mark.parametrize(("fail", "out"), [(True, "sorry"), (False, "fine")])
async def test_on_error_takes_a_branch(tmp_path: Path, fail: bool, out: str) -> None:
    dag = f"""
    inputs:
      fail: {{type: bool}}
    outputs:
      out: {{type: string, reference: "${{join.output.out}}"}}
    nodes:
    - {node("a", value="fine", fail="${inputs.fail}")}, on_error: {{branch: broken}}}}
    - {node("good", value="${a.output}")}, after: [a]}}
    - {node("bad", value="sorry")}, after: [a.broken]}}
    - {{name: join, type: aggregate, inputs: {{g: "${{good.output}}", b: "${{bad.output}}"}}, groups: {{out: [g, b]}}}}
    """
    events, outputs = await outcome(tmp_path, dag, {"fail": fail})
    assert outputs == {"out": out}
    assert ("a Failed" in events) is fail
    assert events[-1] == "terminated Completed"


async def test_after_a_sent_chunk_nothing_is_repeated_or_replaced(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path, model_server.url, "rubbish")
    text = (flow / "flow.dag.yaml").read_text()
    text = text.replace("  connection: model\n", "  connection: model\n  retry: {max: 3}\n  on_error: {default: x}\n")
    (flow / "flow.dag.yaml").write_text(text)
    before = len(model_server.calls_of("rubbish"))
    events = event_lines(await run_flow(flow, {"question": "hi"}))
    assert len(model_server.calls_of("rubbish")) == before + 1
    assert events[-2:] == ["reply Failed", "terminated Failed"]


async def test_output_nodes_make_one_output_in_the_flows_order(tmp_path: Path) -> None:
    # The first part waits for node a, which needs all of what b streams to the second part.
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
    outputs:
      answer: {type: string, is_chat_output: true}
    nodes:
    - {name: first, type: output, inputs: {a: "${a.output}"}, text: "A: {{ a }}; "}
    - {name: second, type: output, inputs: {b: "${b.output}"}, text: "B: {{ b }}."}
    - {name: a, type: python, source: {path: node.py}, inputs: {value: "${b.output}"}}
    - {name: b, type: python, source: {path: talk.py}, inputs: {text: xyz}}
    """
    events, outputs = await outcome(tmp_path, dag, {"question": "hi"})
    assert outputs == {"answer": "A: xyz; B: xyz."}
    deltas = [line for line in events if line.startswith("answer")]
    assert deltas == [
        f"answer stream {delta!r} Streaming" for delta in ("", "A: ", "xyz", "; ", "B: ", "x", "y", "z", ".", "")
    ] + ["answer stream '' Finished"]
    assert events[-1] == "terminated Completed"


async def test_an_output_node_streams_while_its_node_does(tmp_path: Path) -> None:
    dag = """
    outputs:
      answer: {type: string}
    nodes:
    - {name: say, type: output, inputs: {t: "${t.output}"}, text: "{{ t }}", to: answer}
    - {name: t, type: python, source: {path: talk.py}, inputs: {text: ab, wait: 0.02}}
    """
    events, outputs = await outcome(tmp_path, dag)
    assert outputs == {"answer": "ab"}
    assert events.index("answer stream 'a' Streaming") < events.index("t Completed")


async def test_a_bypassed_output_node_adds_nothing(tmp_path: Path) -> None:
    dag = """
    inputs:
      kind: {type: string}
    outputs:
      answer: {type: string}
    nodes:
    - {name: one, type: output, text: "one ", to: answer, activate: {when: "${inputs.kind}", is: a}}
    - {name: two, type: output, text: "two", to: answer}
    """
    assert (await outcome(tmp_path / "b", dag, {"kind": "b"}))[1] == {"answer": "two"}
    assert (await outcome(tmp_path / "a", dag, {"kind": "a"}))[1] == {"answer": "one two"}


async def test_outputs_may_be_objects_of_several_references(tmp_path: Path) -> None:
    dag = f"""
    inputs:
      n: {{type: int}}
    outputs:
      out:
        type: object
        reference: {{n: "${{inputs.n}}", both: ["${{a.output}}", "${{b.output.k}}"], fixed: 1}}
    nodes:
    - {node("a", value="A")}}}
    - {{name: b, type: template, inputs: {{a: "${{a.output}}"}}, template: '{{"k": "{{{{ a }}}}!"}}', format: json}}
    """
    events, outputs = await outcome(tmp_path, dag, {"n": 7})
    assert outputs == {"out": {"n": 7, "both": ["A", "A!"], "fixed": 1}}
    assert sum(line.startswith("out ") for line in events) == 1


BATCH = """
inputs:
  items: {type: list}
  fail: {type: list, default: [false, false, false, false, false]}
outputs:
  out: {type: list, reference: "${each.output}"}
nodes:
- name: each
  type: batch
  inputs: {item: "${inputs.items}", fail: "${inputs.fail}"}
  parallel: 2
  ON_ERROR
  nodes:
  - {name: inner, type: python, source: {path: node.py}, inputs: {value: "${item.item}", fail: "${item.fail}"}}
  - {name: tag, type: template, inputs: {v: "${inner.output}", i: "${index}"}, template: "{{ i }}:{{ v }}"}
  result: ${tag.output}
"""


async def test_a_batch_keeps_the_order_and_the_shortest_list_decides(tmp_path: Path) -> None:
    dag = BATCH.replace("ON_ERROR", "max_items: 4")
    events, outputs = await outcome(tmp_path, dag, {"items": ["a", "b", "c"]})
    assert outputs == {"out": ["0:a", "1:b", "2:c"]}
    assert {"each[2].inner Completed", "each[2].tag Completed", "each Completed"} <= set(events)
    _, outputs = await outcome(tmp_path / "cut", dag, {"items": ["a", "b", "c", "d", "e"]})
    assert outputs == {"out": ["0:a", "1:b", "2:c", "3:d"]}
    _, outputs = await outcome(tmp_path / "none", dag, {"items": []})
    assert outputs == {"out": []}


@pytest.mark.parametrize(("policy", "out"), [("fail", None), ("null", ["0:a", None, "2:c"]), ("drop", ["0:a", "2:c"])])
async def test_a_failed_item_follows_the_policy(tmp_path: Path, policy: str, out: list[str] | None) -> None:
    inputs = {"items": ["a", "b", "c"], "fail": [False, True, False]}
    events, outputs = await outcome(tmp_path, BATCH.replace("ON_ERROR", f"on_item_error: '{policy}'"), inputs)
    assert outputs.get("out") == out
    assert events[-1] == ("terminated Failed" if policy == "fail" else "terminated Completed")
    assert "each[1].inner Failed" in events


LOOP = """
inputs:
  max: {type: int, default: 3}
outputs:
  out: {type: object, reference: "${rounds.output}"}
nodes:
- name: rounds
  type: loop
  max_rounds: 5
  variables:
    count: {type: int, default: 0}
    seen: {type: list, default: []}
  until: [{all: [{input: count, operator: greater_or_equal, value: 3}]}]
  nodes:
  - {name: seen_now, type: template, inputs: {c: "${loop.count}", i: "${index}"}, template: "{{ i }}/{{ c }}"}
  - name: step
    type: assign
    inputs: {now: "${seen_now.output}"}
    assignments:
    - {variable: loop.count, operation: increase, value: 1}
    - {variable: loop.seen, operation: append, input: now}
"""


async def test_a_loop_runs_until_its_condition_holds(tmp_path: Path) -> None:
    events, outputs = await outcome(tmp_path, LOOP)
    assert outputs == {"out": {"count": 3, "seen": ["0/0", "1/1", "2/2"]}}
    assert [line for line in events if line.endswith("step Completed")] == [
        f"rounds[{index}].step Completed" for index in range(3)
    ]
    _, outputs = await outcome(tmp_path / "max", LOOP.replace("value: 3", "value: 99"))
    assert outputs["out"]["count"] == 5


async def test_loops_and_batches_nest(tmp_path: Path) -> None:
    dag = """
    inputs:
      items: {type: list}
    outputs:
      out: {type: list, reference: "${each.output}"}
    nodes:
    - name: each
      type: batch
      inputs: {items: "${inputs.items}"}
      result: ${twice.output.text}
      nodes:
      - name: twice
        type: loop
        max_rounds: 2
        variables: {text: {type: string, default: "${item}"}}
        nodes:
        - {name: add, type: template, inputs: {t: "${loop.text}", i: "${item}"}, template: "{{ t }}{{ i }}"}
        - {name: keep, type: assign, inputs: {t: "${add.output}"}, assignments: [{variable: loop.text, input: t}]}
    """
    events, outputs = await outcome(tmp_path, dag, {"items": ["a", "b"]})
    assert outputs == {"out": ["aaa", "bbb"]}
    assert "each[1].twice[1].keep Completed" in events


async def test_session_variables_live_as_long_as_the_session(tmp_path: Path) -> None:
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
    outputs:
      answer: {type: object, reference: {all: "${session.asked}", n: "${session.n}"}, is_chat_output: true}
    variables:
      asked: {type: list, default: []}
      n: {type: int, default: 10}
    nodes:
    - name: keep
      type: assign
      inputs: {q: "${inputs.question}"}
      assignments:
      - {variable: session.asked, operation: append, input: q}
      - {variable: session.n, operation: increase, value: 1}
    """
    flow = flow_in(tmp_path / "flow", dag)

    async def answers(*questions: str, session: str = SESSION) -> list[Any]:
        async with service_of(flow, data=tmp_path) as service:
            return [(await events_of(service, {"question": q}, session_id=session))[-2].delta for q in questions]  # type: ignore[union-attr]

    assert await answers("a", "b") == [{"all": ["a"], "n": 11}, {"all": ["a", "b"], "n": 12}]
    assert await answers("c") == [{"all": ["a", "b", "c"], "n": 13}]
    assert await answers("x", session="t" * 32) == [{"all": ["x"], "n": 11}]


async def test_a_session_variable_that_gets_another_type_is_read_as_that_one_or_has_its_default(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dag = """
    inputs:
      question: {{type: string, is_chat_input: true}}
    outputs:
      answer: {{type: object, reference: {{a: "${{session.a}}", b: "${{session.b}}"}}, is_chat_output: true}}
    variables:
      a: {{type: {0}, default: {1}}}
      b: {{type: {0}, default: {1}}}
    nodes:
    - name: keep
      type: assign
      assignments:
      - {{variable: session.a, operation: {2}, value: {3}}}
      - {{variable: session.b, operation: {2}, value: {4}}}
    """
    answers = []
    for number, parts in enumerate((("string", "x", "set", '"7"', '"many"'), ("int", 40, "increase", 1, 2))):
        flow = flow_in(tmp_path / str(number), dag.format(*parts))
        answers.append((await run_flow(flow, {"question": "q"}, data=tmp_path))[-2].delta)  # type: ignore[union-attr]
    assert answers == [{"a": "7", "b": "many"}, {"a": 8, "b": 42}]
    assert "the stored value of the session variable 'b' is not of type int" in caplog.text
    assert "many" not in caplog.text


async def test_an_integer_that_grows_beyond_64_bits_fails_its_node(tmp_path: Path) -> None:
    dag = f"""
    variables:
      n: {{type: int, default: {2**64 - 2}}}
    outputs:
      n: {{type: int, reference: "${{session.n}}"}}
    nodes:
    - name: keep
      type: assign
      assignments: [{{variable: session.n, operation: increase, value: 1}}]
    - name: more
      type: assign
      after: [keep]
      assignments: [{{variable: session.n, operation: increase, value: 1}}]
    """
    error = run_error(await run_flow(flow_in(tmp_path, dag), {}))
    assert error.message.endswith(
        "session.n: cannot increase 1: expected an integer of 64 bits, got 18446744073709551616"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("after: [route.big]", "after: [route.huge]"), "'route' has no branch 'huge'; it has big, odd, rest"),
        (("after: [route.big]", "after: [rout]"), "there is no node 'rout' here"),
        (("input: n, operator: equals", "input: m, operator: equals"), "there is no input 'm' here; there are n"),
        (("picked: [a, b, c]", "picked: [a, z]"), "there is no input 'z' here; there are a, b, c"),
        (("- {name: rest}", "- {name: big}"), "2 branches are named 'big'"),
    ],
)
def test_what_does_not_fit_is_named_at_load(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in BRANCHES
    problems = problems_of(flow_in(tmp_path, BRANCHES.replace(*change)))
    assert message in [problem.message for problem in problems]
    assert all(problem.line for problem in problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("${loop.count}", "${loop.cont}"), "${loop.cont}: there is no loop variable 'cont'; there are count, seen"),
        (("${index}", "${item}"), "${item} stands only inside a batch"),
        (("variable: loop.count", "variable: loop.x"), "there is no loop variable 'x' here; there are count, seen"),
        (("variable: loop.count", "variable: session.x"), "there is no session variable 'x' here; there are none"),
        (
            ("${rounds.output}", "${step.output}"),
            "${step.output}: there is no node 'step'; 'step' is inside another node; there are rounds",
        ),
        (("max_rounds: 5", "max_rounds: 0"), "input should be greater than or equal to 1"),
    ],
)
def test_references_keep_to_their_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in LOOP
    assert message in [problem.message for problem in problems_of(flow_in(tmp_path, LOOP.replace(*change)))]
