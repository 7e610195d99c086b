"""The events of whole runs, in order: a flow's text goes in, the full list of events comes out."""

from pathlib import Path

import pytest

from tests.support.flows import event_lines, events_of, run_error, run_flow, service_of, write_chat_flow, write_flow
from tests.support.model_server import ModelServer

PASS_ON = """
async def invoke(text: str, more: str = "") -> str:
    return text + more
"""


def done(*nodes: str) -> list[str]:
    """Return the lines of nodes that run one after the other."""
    return [f"{node} {status}" for node in nodes for status in ("Running", "Completed")]


def chain(folder: Path) -> Path:
    dag = """
    inputs:
      text: {type: string}
    outputs:
      out: {type: string, reference: "${second.output}"}
    nodes:
    - {name: second, type: python, source: {path: pass_on.py}, inputs: {text: "${first.output}", more: "!"}}
    - {name: first, type: python, source: {path: pass_on.py}, inputs: {text: "${inputs.text}"}}
    """
    return write_flow(folder, dag, {"pass_on.py": PASS_ON})


async def test_a_chain_runs_in_the_order_of_its_references(tmp_path: Path) -> None:
    events = await run_flow(chain(tmp_path), {"text": "hi"})
    assert event_lines(events) == [
        "started",
        *done("first", "second"),
        "out whole 'hi!' Finished",
        "terminated Completed",
    ]


async def test_the_sides_of_a_diamond_run_at_the_same_time(tmp_path: Path) -> None:
    # Each side waits for the other: they end only if both run.
    meet = """
    import asyncio
    from langstudio.core import tool

    barriers = {}

    @tool
    async def invoke(key: str, value: str) -> str:
        await asyncio.wait_for(barriers.setdefault(key, asyncio.Barrier(2)).wait(), 10)
        return value
    """
    dag = """
    inputs:
      key: {type: string}
    outputs:
      out: {type: string, reference: "${join.output}"}
    nodes:
    - {name: top, type: python, source: {path: pass_on.py}, inputs: {text: "${inputs.key}"}}
    - {name: left, type: python, source: {path: meet.py}, inputs: {key: "${top.output}", value: L}}
    - {name: right, type: python, source: {path: meet.py}, inputs: {key: "${top.output}", value: R}}
    - {name: join, type: python, source: {path: pass_on.py}, inputs: {text: "${left.output}", more: "${right.output}"}}
    """
    flow = write_flow(tmp_path, dag, {"meet.py": meet, "pass_on.py": PASS_ON})
    events = event_lines(await run_flow(flow, {"key": "k"}))
    assert events[:5] == ["started", "top Running", "top Completed", "left Running", "right Running"]
    assert sorted(events[5:7]) == ["left Completed", "right Completed"]
    assert events[7:] == ["join Running", "join Completed", "out whole 'LR' Finished", "terminated Completed"]


async def test_a_failing_node_fails_the_run_and_cancels_what_still_runs(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: string, reference: "${after.output}"}
    nodes:
    - {name: slow, type: python, source: {path: slow.py}}
    - {name: bad, type: python, source: {path: bad.py}}
    - {name: after, type: python, source: {path: pass_on.py}, inputs: {text: "${bad.output}"}}
    """
    slow_code = """
    import asyncio

    async def invoke():
        await asyncio.sleep(60)
    """
    bad_code = """
    def invoke():
        return {}["missing"]
    """
    flow = write_flow(tmp_path, dag, {"pass_on.py": PASS_ON, "slow.py": slow_code, "bad.py": bad_code})
    events = await run_flow(flow, {})
    assert event_lines(events) == [
        "started",
        "slow Running",
        "bad Running",
        "bad Failed",
        "slow Canceled",
        "terminated Failed",
    ]
    error = run_error(events)
    assert error.message == "node 'bad' failed: KeyError: 'missing'"
    assert (error.type, error.param, error.code) == ("node_error", "bad", "node_failed")
    assert events[3].error == error  # type: ignore[union-attr]


async def test_a_streamed_output_opens_and_closes_with_an_empty_delta(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: string, reference: "${talk.output}"}
      copy: {type: string, reference: "${after.output}"}
    nodes:
    - {name: talk, type: python, source: {path: talk.py}}
    - {name: after, type: python, source: {path: pass_on.py}, inputs: {text: "${talk.output}", more: "!"}}
    """
    code = """
    def invoke():
        yield "a"
        yield "b"
    """
    events = await run_flow(write_flow(tmp_path, dag, {"pass_on.py": PASS_ON, "talk.py": code}), {})
    assert event_lines(events) == [
        "started",
        "talk Running",
        "out stream '' Streaming",
        "out stream 'a' Streaming",
        "out stream 'b' Streaming",
        "out stream '' Streaming",
        "out stream '' Finished",
        "talk Completed",
        *done("after"),
        "copy whole 'ab!' Finished",
        "terminated Completed",
    ]


async def test_a_bypassed_node_is_told_of_once_and_its_output_is_null(tmp_path: Path) -> None:
    dag = """
    inputs:
      kind: {type: string}
    outputs:
      out: {type: string, reference: "${maybe.output}"}
      both: {type: string, reference: "${join.output}"}
    nodes:
    - name: maybe
      type: python
      source: {path: pass_on.py}
      inputs: {text: yes it runs}
      activate: {when: "${inputs.kind}", is: a}
    - {name: only_maybe, type: python, source: {path: pass_on.py}, inputs: {text: "${maybe.output}"}}
    - {name: always, type: python, source: {path: pass_on.py}, inputs: {text: always}}
    - {name: join, type: python, source: {path: pass_on.py}, inputs: {text: "${always.output}", more: "${maybe.output}"}}
    """
    events = event_lines(await run_flow(write_flow(tmp_path, dag, {"pass_on.py": PASS_ON}), {"kind": "b"}))
    # `more` has a default, so it is left out where it refers to a bypassed node.
    assert events == [
        "started",
        "maybe Bypassed",
        "out whole None Finished",
        "only_maybe Bypassed",
        *done("always", "join"),
        "both whole 'always' Finished",
        "terminated Completed",
    ]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("${first.output.nothing}", "node 'first': outputs.out: ${first.output.nothing}: str has no 'nothing'"),
        ("${first.output.a[3]}", "node 'first': outputs.out: ${first.output.a[3]}: str has no 'a'"),
    ],
)
async def test_an_output_that_refers_to_nothing_fails_its_node(tmp_path: Path, reference: str, message: str) -> None:
    dag = f"""
    outputs:
      out: {{type: string, reference: "{reference}"}}
    nodes:
    - {{name: first, type: python, source: {{path: pass_on.py}}, inputs: {{text: hi}}}}
    """
    events = await run_flow(write_flow(tmp_path, dag, {"pass_on.py": PASS_ON}), {})
    assert event_lines(events) == ["started", "first Running", "first Failed", "terminated Failed"]
    assert events[-1].error.message == message  # type: ignore[union-attr]


async def test_outputs_that_no_node_makes_come_first(tmp_path: Path) -> None:
    dag = """
    inputs:
      text: {type: string}
    outputs:
      same: {type: string, reference: "${inputs.text}"}
      fixed: {type: string, reference: a constant}
      run: {type: string, reference: "${sys.session_id}"}
    nodes:
    - {name: first, type: python, source: {path: pass_on.py}, inputs: {text: hi}}
    """
    events = event_lines(await run_flow(write_flow(tmp_path, dag, {"pass_on.py": PASS_ON}), {"text": "t"}))
    assert events == [
        "started",
        "same whole 't' Finished",
        "fixed whole 'a constant' Finished",
        f"run whole '{'s' * 32}' Finished",
        *done("first"),
        "terminated Completed",
    ]


async def test_a_model_streams_to_an_output_and_a_node_reads_it_whole(
    tmp_path: Path, model_server: ModelServer
) -> None:
    flow = write_chat_flow(tmp_path, model_server.url, "words:3:0.01")
    dag = (flow / "flow.dag.yaml").read_text()
    dag = dag.replace(
        "nodes:\n",
        'nodes:\n- {name: count, type: python, source: {path: count.py}, inputs: {text: "${reply.output}"}}\n',
    )
    dag = dag.replace("nodes:\n", '  length: {type: int, reference: "${count.output}"}\nnodes:\n', 1)
    (flow / "flow.dag.yaml").write_text(dag)
    (flow / "count.py").write_text(
        "from promptflow.core import tool\n\n@tool\ndef count(text):\n    return len(text)\n"
    )
    async with service_of(flow) as service:
        events = event_lines(await events_of(service, {"question": "hi"}))
        calls = model_server.calls_of("words:3:0.01")
    assert events == [
        "started",
        "reply Running",
        *(f"answer stream {delta!r} Streaming" for delta in ("", "w0 ", "w1 ", "w2 ", "")),
        "answer stream '' Finished",
        "reply Completed",
        *done("count"),
        "length whole 9 Finished",
        "terminated Completed",
    ]
    assert calls[-1].body["stream"]
