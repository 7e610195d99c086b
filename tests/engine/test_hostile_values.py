"""What a node returns or yields is limited, and no value of it breaks a run."""

from pathlib import Path

import pytest

from flowpod.engine.events import RunTerminated
from flowpod.jsonable import is_longer_than
from tests.support.flows import post, run_error, run_flow, write_flow

DAG = """
outputs:
  out: {type: string, reference: "${node.output}"}
nodes:
- {name: node, type: python, source: {path: node.py}}
- {name: reader, type: template, template: "{{ value }}", inputs: {value: "${node.output}"}}
"""
DEEP = "value = []\n    for _ in range(100_000):\n        value = [value]\n    return value"
SHARED = "value = ['x']\n    for _ in range(100):\n        value = [value] * 10\n    return value"


def flow_of(folder: Path, body: str, *, reader: bool = False) -> Path:
    dag = DAG if reader else DAG[: DAG.index("- {name: reader")]
    return write_flow(folder, dag, {"node.py": f"from promptflow.core import tool\n\n@tool\ndef node():\n    {body}\n"})


@pytest.mark.fault("a node returns or yields too much")
@pytest.mark.parametrize(
    "body",
    [
        "return 'x' * 1001",
        "return ['x' * 100] * 11",
        "return {'x' * 600: 'y' * 600}",
        "return [{}] * 1001",
        SHARED,
        "yield 'x' * 1001",
        "while True:\n        yield ''",
        "while True:\n        yield 'x' * 100",
    ],
)
async def test_too_much_of_a_node_is_refused(tmp_path: Path, body: str) -> None:
    error = run_error(await run_flow(flow_of(tmp_path, body), {}, max_output_chars=1000))
    assert error.code == "output_too_large"
    assert "FLOWPOD_MAX_OUTPUT_CHARS" in error.message


@pytest.mark.parametrize(
    "body",
    ["return 'x' * 1000", "return ['x' * 99] * 10", DEEP, "return 10 ** 10_000", "return [-(10 ** 10_000)]"],
)
async def test_a_value_that_is_odd_but_not_too_long_is_returned(tmp_path: Path, body: str) -> None:
    end = (await run_flow(flow_of(tmp_path / "flow", body), {}, max_output_chars=1000, data=tmp_path))[-1]
    assert isinstance(end, RunTerminated)
    assert end.error is None
    assert (await post(flow_of(tmp_path / "flow", body), "/", {})).status_code == 200


@pytest.mark.parametrize("body", [DEEP, "return [10 ** 10_000]"])
async def test_a_reader_of_an_odd_value_fails_with_a_reason(tmp_path: Path, body: str) -> None:
    error = run_error(await run_flow(flow_of(tmp_path, body, reader=True), {}))
    assert (error.param, error.code) == ("reader", "template_error")


def test_a_value_is_longer_than_the_texts_in_it() -> None:
    assert not is_longer_than(["ab", {"c": "d"}, 1], 7)
    assert is_longer_than(["ab", {"c": "d"}, 1], 5)
    assert not is_longer_than(7, 0)
