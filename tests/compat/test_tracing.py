"""Spans of a flow's own functions; in an interpreter of its own, because the tracer provider is the process's."""

import json
import subprocess
import sys

import pytest

from tests.support.serving import ROOT

PROGRAM = """
import asyncio, json
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from flowpod.compat import stand_ins
stand_ins.install()
from promptflow.tracing import ThreadPoolExecutorWithContext, trace

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
otel.set_tracer_provider(provider)
{code}
with provider.get_tracer("test").start_as_current_span("node"):
    try:
        main()
    except ValueError:
        pass
spans = exporter.get_finished_spans()
names = {{span.context.span_id: span.name for span in spans}}
print(json.dumps([
    [span.name, names.get(span.parent.span_id) if span.parent else None, span.status.description] for span in spans
]))
"""


def spans_of(code: str) -> list[list[str | None]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    spans: list[list[str | None]] = json.loads(done.stdout)
    return spans


NODE = ["node", None, None]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "@trace\ndef inner(): return 1\n@trace()\ndef main(): return inner()",
            [["inner", "main", None], ["main", "node", None], NODE],
        ),
        (
            "@trace\nasync def inner(): return 1\ndef main(): assert asyncio.run(inner()) == 1",
            [["inner", "node", None], NODE],
        ),
        ("@trace\ndef main(): raise ValueError('bad')", [["main", "node", "ValueError: bad"], NODE]),
        (
            "@trace\ndef items():\n yield otel.get_current_span().name\ndef main(): assert list(items()) == ['node']",
            [["items", "node", None], NODE],
        ),
        (
            ("@trace\ndef items():\n yield 1\n raise ValueError('bad')\ndef main(): list(items())"),
            [["items", "node", "ValueError: bad"], NODE],
        ),
        (
            (
                "@trace\nasync def items():\n yield 1\n yield 2\n"
                "async def read(): return [item async for item in items()]\n"
                "def main(): assert asyncio.run(read()) == [1, 2]"
            ),
            [["items", "node", None], NODE],
        ),
        (
            (
                "@trace\ndef work(x): return x + 1\n"
                "def main():\n with ThreadPoolExecutorWithContext(2) as pool: assert pool.submit(work, x=1).result() == 2"
            ),
            [["work", "node", None], NODE],
        ),
    ],
)
def test_call_of_a_traced_function_is_a_span_under_the_node(code: str, expected: list[list[str | None]]) -> None:
    assert spans_of(code) == expected
