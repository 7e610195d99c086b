"""A flow's own code may do anything; the run still ends, says why, and nobody else notices."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flowpod.engine.events import RunTerminated
from flowpod.engine.request import RunRequest
from tests.support.flows import SESSION, event_lines, events_of, run_error, run_flow, service_of, write_flow

HEAD = """
import asyncio
from promptflow.core import tool

class Base(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")

class Rude:
    def __repr__(self):
        raise Base()

"""


def flow_of(folder: Path, code: str) -> Path:
    dag = """
    inputs:
      given: {type: list, default: []}
    outputs:
      out: {type: string, reference: "${node.output}"}
    nodes:
    - {name: node, type: python, source: {path: node.py}, inputs: {given: "${inputs.given}", fixed: [1]}}
    """
    return write_flow(folder, dag, {"node.py": HEAD + code})


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("before", ["", "yield 'a'\n    "])
@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise Base('x')", "Base"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise Mute", "Mute: (its text cannot be read)"),
        ("raise ExceptionGroup('g', [ValueError('inner')])", "ValueError: inner"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("raise ValueError('x' * 100_000)", "ValueError: xxx"),
    ],
)
async def test_any_exception_fails_the_node(tmp_path: Path, kind: str, before: str, statement: str, text: str) -> None:
    flow = flow_of(tmp_path, f"@tool\n{kind} node(given, fixed):\n    {before}{statement}\n")
    async with service_of(flow) as service, asyncio.timeout(20):
        events = await events_of(service, {})
    assert event_lines(events)[-2:] == ["node Failed", "terminated Failed"]
    error = run_error(events)
    assert error.message.startswith("node 'node' failed: ")
    assert text in error.message
    assert len(error.message) < 3000


async def test_a_value_whose_repr_raises_is_still_shown(tmp_path: Path) -> None:
    events = await run_flow(flow_of(tmp_path, "@tool\ndef node(given, fixed):\n    return Rude()\n"), {})
    assert told_status(events) == "Completed"


def told_status(events: list[Any]) -> str:
    return str(events[-1].status)


async def test_what_a_node_does_to_its_inputs_stays_in_its_run(tmp_path: Path) -> None:
    code = (
        "@tool\ndef node(given, fixed):\n    given.append('secret')\n    fixed.append(2)\n    return [given, fixed]\n"
    )
    async with service_of(flow_of(tmp_path, code)) as service:
        first = await events_of(service, {})
        second = await events_of(service, {})
    assert first[-2].delta == second[-2].delta == [["secret"], [1, 2]]  # type: ignore[union-attr]


@pytest.mark.parametrize("fed", [True, False])
async def test_a_generator_that_never_waits_holds_nobody_up(tmp_path: Path, fed: bool) -> None:
    flow = flow_of(tmp_path, "@tool\nasync def node(given, fixed):\n    while True:\n        yield 'x'\n")
    if not fed:
        dag = (flow / "flow.dag.yaml").read_text().replace("${node.output}", "${inputs.given}")
        (flow / "flow.dag.yaml").write_text(dag)
    async with service_of(flow) as service, asyncio.timeout(20):
        run = await service.start(RunRequest({}, SESSION))
        await asyncio.sleep(0.05)
        run.leave()
        await run.finished()


async def test_a_stream_without_end_is_cut_at_the_limit(tmp_path: Path) -> None:
    flow = flow_of(tmp_path, "@tool\nasync def node(given, fixed):\n    while True:\n        yield 'x' * 100\n")
    events = await run_flow(flow, {}, max_output_chars=1000)
    assert events[-1].error.code == "output_too_large"  # type: ignore[union-attr]
    assert "FLOWPOD_MAX_OUTPUT_CHARS" in events[-1].error.message  # type: ignore[union-attr]


@pytest.mark.parametrize(("length", "fails"), [(500, False), (501, True)])
async def test_text_that_waits_for_an_earlier_node_is_limited(tmp_path: Path, length: int, fails: bool) -> None:
    dag = f"""
    inputs:
      text: {{type: string, default: "{"字" * length}"}}
    outputs:
      out: {{type: string}}
    nodes:
    - {{name: first, type: output, to: out, text: "{{{{ value }}}}", inputs: {{value: "${{wait.output}}"}}}}
    - {{name: second, type: output, to: out, text: "{{{{ value }}}}", inputs: {{value: "${{inputs.text}}"}}}}
    - {{name: third, type: output, to: out, text: "{{{{ value }}}}", inputs: {{value: "${{inputs.text}}"}}}}
    - {{name: wait, type: python, source: {{path: wait.py}}}}
    """
    flow = write_flow(
        tmp_path, dag, {"wait.py": "import asyncio\nasync def invoke():\n    await asyncio.sleep(0.2)\n    return ''\n"}
    )
    events = await run_flow(flow, {}, max_output_chars=1000)
    message = (
        "the output 'out' holds back more than 1000 characters (FLOWPOD_MAX_OUTPUT_CHARS) until the node 'first' ends"
    )
    assert (message in str(events[-1])) == fails
    assert isinstance(events[-1], RunTerminated)
    assert events[-1].status == ("Failed" if fails else "Completed")


async def test_a_node_that_waits_for_its_reader_is_reported_once(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: string, reference: "${a.output}"}
    nodes:
    - {name: a, type: python, source: {path: a.py}}
    - {name: b, type: python, source: {path: b.py}}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {
            "a.py": HEAD + "@tool\nasync def a():\n    while True:\n        yield 'x'\n",
            "b.py": HEAD + "@tool\nasync def b():\n    await asyncio.sleep(0.2)\n    return 1\n",
        },
    )
    async with service_of(flow, run_timeout_s=0.5) as service:
        run = await service.start(RunRequest({}, SESSION))
        await run.finished()
        events = [event async for batch in run.events.batches() for event in batch]
    lines = [line for line in event_lines(events) if line.startswith("b ")]
    assert lines in (["b Running", "b Canceled"], ["b Running", "b Completed"])


async def test_threads_that_never_return_are_told_of(tmp_path: Path) -> None:
    code = "import time\n\n@tool\ndef node(given, fixed):\n    time.sleep(2)\n"
    async with service_of(flow_of(tmp_path, code), run_timeout_s=0.1) as service:
        for _ in range(8):  # as many as the threads of `build`
            assert run_error(await events_of(service, {})).code == "run_timeout"
        error = run_error(await events_of(service, {}))
    assert error.code == "no_thread"
    assert "FLOWPOD_THREADS" in error.message


# Long enough to exceed the time limit below; its thread goes on rendering and slows down the tests that follow.
LONG = "{% for a in range(600) %}{% for b in range(10000) %}{% endfor %}{% endfor %}done"
RENDER = "promptflow.tools.template_rendering.render_template_jinja2"


@pytest.mark.parametrize(
    "node",
    [
        f"{{name: n, type: template, template: '{LONG}'",
        "{name: n, type: prompt, source: {path: n.jinja2}",
        "{name: n, type: llm, source: {path: n.jinja2}, connection: offline, inputs: {model: m}",
        f"{{name: n, type: python, source: {{type: package, tool: {RENDER}}}, inputs: {{template: '{LONG}'}}",
    ],
)
async def test_a_template_that_takes_long_holds_nobody_up(tmp_path: Path, node: str) -> None:
    flow = write_flow(tmp_path, f"nodes:\n- {node}, timeout_s: 0.05}}\n", {"n.jinja2": LONG})
    assert run_error(await run_flow(flow, {})).code == "node_timeout"


CANCELS = """
class Value(dict):
    def __str__(self):
        asyncio.current_task().cancel()
        return "value"

@tool
async def node(given, fixed):
    BODY
    return Value()
"""
CANCEL_RUN = "[task.cancel() for task in asyncio.all_tasks() if task.get_name().startswith('run ')]"


@pytest.mark.parametrize("body", ["pass", CANCEL_RUN])
async def test_a_flow_that_cancels_the_task_of_its_run_ends_with_it(tmp_path: Path, body: str) -> None:
    flow = flow_of(tmp_path, CANCELS.replace("BODY", body))
    dag = (flow / "flow.dag.yaml").read_text().replace("${node.output}", "${text.output}")
    text = '- {name: text, type: template, template: "{{ value }}", inputs: {value: "${node.output}"}}\n'
    (flow / "flow.dag.yaml").write_text(dag + text)
    async with service_of(flow, data=tmp_path) as service, asyncio.timeout(20):
        events = await events_of(service, {})
        assert event_lines(events)[-1].startswith("terminated ")
        while service.runs:
            await asyncio.sleep(0.01)


async def test_nodes_that_never_wait_hold_nobody_up(tmp_path: Path) -> None:
    dag = """
    nodes:
    - name: again
      type: loop
      max_rounds: 1000
      nodes:
      - {name: choose, type: condition, branches: [{name: always}]}
    """
    async with service_of(write_flow(tmp_path, dag)) as service:
        reading = asyncio.create_task(events_of(service, {}))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns > 50
