"""The span that promptflow's `/feedback` adds to a trace."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import post
from tests.support.score import echo_flow
from tests.telemetry.test_tracing import parent, recording

TRACE, SPAN = "ab" * 16, "cd" * 8


async def feedback(tmp_path: Path, path: str, content: bytes, **headers: str) -> tuple[httpx.Response, Any]:
    tracing, exporter = recording()
    response = await post(echo_flow(tmp_path), path, content=content, headers=headers, tracing=tracing)
    (span,) = exporter.get_finished_spans()
    return response, span


async def test_feedback_is_a_span_in_the_trace_of_the_answer(tmp_path: Path) -> None:
    response, span = await feedback(
        tmp_path, "/feedback", b"very good", traceparent=f"00-{TRACE}-{SPAN}-01", baggage="user=ann,team=a%20b"
    )
    assert (response.status_code, response.json()) == (200, {"status": "Feedback received."})
    assert span.name == "promptflow-feedback"
    assert span.context.trace_id == int(TRACE, 16)
    assert parent(span) == int(SPAN, 16)
    assert span.attributes == {"feedback": "very good", "user": "ann", "team": "a b"}


@pytest.mark.parametrize(
    ("path", "content", "attributes"),
    [
        ("/feedback", b'{"stars": 5}', {"feedback": '{"stars": 5}'}),
        ("/feedback", b"\xff", {"feedback": "\ufffd"}),
        ("/feedback", b"", {"feedback": ""}),
        ("/feedback?flatten=false", b'{"stars": 5}', {"feedback": '{"stars": 5}'}),
        (
            "/feedback?flatten=True",
            b'{"stars": 5, "text": "ok", "good": true, "half": 0.5, "tags": ["a"], "nothing": null, "more": {"a": 1}}',
            {
                "stars": 5,
                "text": "ok",
                "good": True,
                "half": 0.5,
                "tags": '["a"]',
                "nothing": "null",
                "more": '{"a":1}',
            },
        ),
        ("/feedback?flatten=true", b'{"big": 18446744073709551615}', {"big": "18446744073709551615"}),
        ("/feedback?flatten=true", b"no json", {"feedback": "no json"}),
        ("/feedback?flatten=true", b"[1]", {"feedback": "[1]"}),
    ],
)
async def test_feedback_is_one_attribute_or_one_for_each_key(
    tmp_path: Path, path: str, content: bytes, attributes: dict[str, Any]
) -> None:
    response, span = await feedback(tmp_path, path, content)
    assert (response.status_code, span.attributes) == (200, attributes)
    assert span.parent is None
