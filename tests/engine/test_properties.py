"""For any flow: every node ends in one state, none starts before what it waits for, and the run ends."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowpod.engine.events import NodeUpdated, RunStarted, RunTerminated
from tests.support.flows import events_of, service_of, write_flow

CODE = """
import asyncio
from promptflow.core import tool

@tool
async def act(how: str, **needed):
    if how == "fail":
        raise ValueError("as asked")
    await asyncio.sleep(60 if how == "hang" else 0)
    return how
"""
HOW = st.sampled_from(["pass", "pass", "pass", "fail", "hang", "default", "branch"])


@st.composite
def flows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return nodes: how each behaves, which ones before it it refers to, and whether its condition holds."""
    count = draw(st.integers(1, 8))
    return [
        {
            "how": draw(HOW),
            "needs": draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set(),
            "runs": draw(st.sampled_from([True, True, True, False])),
            "after": draw(st.integers(0, number - 1)) if number and draw(st.booleans()) else None,
        }
        for number in range(count)
    ]


def text_of(nodes: list[dict[str, Any]]) -> str:
    lines = ["nodes:"]
    for number, node in enumerate(nodes):
        inputs = {f"x{other}": f"${{n{other}.output}}" for other in node["needs"]}
        how = {"default": "fail", "branch": "fail"}.get(node["how"], node["how"])
        given_inputs = ", ".join(f'{name}: "{value}"' for name, value in {"how": how, **inputs}.items())
        more = ""
        if node["how"] == "default":
            more += ", on_error: {default: 1}"
        if node["how"] == "branch":
            more += ", on_error: {branch: broken}"
        if node["how"] == "hang":
            more += ", timeout_s: 0.01"
        if not node["runs"]:
            more += ", activate: {when: no, is: yes}"
        if node["after"] is not None:
            more += f", after: [n{node['after']}]"
        lines.append(f"- {{name: n{number}, type: python, source: {{path: act.py}}, inputs: {{{given_inputs}}}{more}}}")
    return "\n".join(lines) + "\n"


async def course(nodes: list[dict[str, Any]]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with service_of(write_flow(Path(folder), text_of(nodes), {"act.py": CODE})) as service:
            async with asyncio.timeout(20):
                return await events_of(service, {})


@given(flows())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_every_node_ends_once_and_after_what_it_waits_for(nodes: list[dict[str, Any]]) -> None:
    events = asyncio.run(course(nodes))
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunTerminated)
    assert sum(isinstance(event, RunTerminated) for event in events) == 1
    updates = [event for event in events if isinstance(event, NodeUpdated)]
    settled: dict[str, str] = {}
    begun: set[str] = set()
    for update in updates:
        number = int(update.node.removeprefix("n"))
        if update.status == "Running":
            assert update.node not in begun
            begun.add(update.node)
            waits_for = {f"n{other}" for other in nodes[number]["needs"] | ({nodes[number]["after"]} - {None})}
            assert waits_for <= settled.keys()
            continue
        assert update.node not in settled
        assert (update.node in begun) is (update.status != "Bypassed")
        settled[update.node] = update.status
    assert begun <= settled.keys()
    if events[-1].status == "Completed":
        assert len(settled) == len(nodes)
        assert "Canceled" not in settled.values()
    else:
        assert "Failed" in settled.values()
