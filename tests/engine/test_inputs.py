"""What a request's values become, and what is kept of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowpod.engine.request import flow_inputs
from flowpod.errors import InvalidRequest
from flowpod.jsonable import MAX_DEPTH
from flowpod.settings import Settings
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.tracing import Tracing
from tests.support.flows import build, client_of, run_flow, write_flow

SECRETIVE = """
inputs:
  question: {type: string, is_chat_input: true}
  key: {type: secret}
outputs:
  answer: {type: string, reference: "${node.output}", is_chat_output: true}
nodes:
- {name: node, type: python, source: {path: node.py}, inputs: {key: "${inputs.key}", question: "${inputs.question}"}}
"""
DEEP = """
inputs:
  deep: {type: KIND}
outputs:
  out: {type: list, reference: "${inputs.deep}"}
nodes:
- {name: p, type: prompt, source: {path: p.jinja2}, inputs: {deep: "${inputs.deep}"}}
"""
CODE = """
def invoke(key, question):
    return str(len(key))
"""


def test_null_counts_as_not_given(tmp_path: Path) -> None:
    dag = """
    inputs:
      text: {type: string}
      count: {type: int, default: 3}
      chat_history: {type: list}
    nodes:
    - {name: p, type: prompt, source: {path: p.jinja2}}
    """
    flow = build(write_flow(tmp_path, dag, {"p.jinja2": ""})).flow
    given = flow_inputs(flow, {"text": "x", "count": None, "chat_history": None})
    assert given == {"text": "x", "count": 3, "chat_history": []}
    with pytest.raises(InvalidRequest, match="input 'text' is missing"):
        flow_inputs(flow, {"text": None})


async def test_a_secret_reaches_the_code_and_nothing_else(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = SpanProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    flow = write_flow(tmp_path / "flow", SECRETIVE, {"node.py": CODE})
    events = await run_flow(flow, {"question": "hi", "key": "topsecret"}, tracing=Tracing(provider), data=tmp_path)
    assert events[-2].delta == "9"  # type: ignore[union-attr]
    assert "topsecret" not in str([dict(span.attributes or {}) for span in exporter.get_finished_spans()])
    kept = stored_in(tmp_path)
    assert b'"key":"***"' in kept
    assert b"topsecret" not in kept


def stored_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("chat_history.db*"))


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    dag = """
    nodes:
    - {name: p, type: prompt, source: {path: p.jinja2}}
    """
    flow = write_flow(tmp_path, dag, {"p.jinja2": "", "connections.yaml": "c: {type: open_ai, api_key: topsecret}\n"})
    assert "topsecret" not in repr(build(flow).flow)
    assert "topsecret" not in repr(Settings(tokens=("topsecret",)))


@pytest.mark.parametrize("kind", ["list", "string", "object", "image", "int", "File"])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 800])
def test_a_too_deep_value_is_refused_by_the_name_of_its_input(tmp_path: Path, kind: str, depth: int) -> None:
    flow = build(write_flow(tmp_path, DEEP.replace("KIND", kind), {"p.jinja2": ""})).flow
    value = deep(depth)
    for given in (value, json.dumps(value)) if kind in ("list", "object", "File") else (value,):
        with pytest.raises(InvalidRequest, match=r"^input 'deep': ") as caught:
            flow_inputs(flow, {"deep": given})
        assert caught.value.param == "deep"


@pytest.mark.parametrize("path", ["/", "/run", "/score"])
@pytest.mark.parametrize(("depth", "status"), [(MAX_DEPTH, 200), (MAX_DEPTH + 1, 400), (800, 400)])
async def test_the_depth_limit_is_the_same_everywhere(tmp_path: Path, path: str, depth: int, status: int) -> None:
    flow = write_flow(tmp_path, DEEP.replace("KIND", "list"), {"p.jinja2": "{{ deep }}"})
    inputs = {"deep": deep(depth)}
    async with client_of(flow) as client:
        body = {"inputs": inputs, "stream": False} if path == "/run" else inputs
        response = await client.post(path, json=body)
    assert response.status_code == status


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value
