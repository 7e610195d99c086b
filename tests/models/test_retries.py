"""When a failed request to a model is sent again, and after how long."""

import time
from email.utils import formatdate

import pytest

from flowpod.models.retries import MAX_WAIT_S, requested_wait, should_retry, wait_before_retry


@pytest.mark.parametrize(
    ("status", "headers", "again"),
    [
        (400, {}, False),
        (401, {}, False),
        (408, {}, True),
        (409, {}, True),
        (429, {}, True),
        (500, {}, True),
        (529, {}, True),
        (500, {"x-should-retry": "false"}, False),
        (400, {"x-should-retry": "true"}, True),
        (429, {"retry-after": "30"}, True),
        (429, {"retry-after": "121"}, False),
        (429, {"retry-after": "1e999"}, False),
        (429, {"retry-after": "soon"}, True),
    ],
)
def test_a_status_or_the_server_decides(status: int, headers: dict[str, str], again: bool) -> None:
    assert should_retry(status, headers) is again


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"retry-after": "2.5"}, 2.5), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25)],
)
def test_a_server_asks_for_a_wait_in_seconds_or_milliseconds(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_wait(headers) == seconds


def test_a_server_asks_for_a_wait_until_a_date() -> None:
    seconds = requested_wait({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert seconds is not None
    assert 50 < seconds < 61


def test_a_wait_is_the_one_asked_for_or_grows() -> None:
    assert wait_before_retry(0, {"retry-after": "7"}) == 7
    for retry, longest in enumerate((0.5, 1, 2, 4, 8, 8)):
        assert longest * 0.75 <= wait_before_retry(retry) <= longest
    for useless in ("-1", "0", str(MAX_WAIT_S + 1), "nan"):
        assert wait_before_retry(0, {"retry-after": useless}) <= 0.5
