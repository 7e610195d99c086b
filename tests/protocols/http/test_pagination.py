import pytest

from flowpod.api.http.pagination import decode_cursor, page
from flowpod.errors import InvalidRequest


def test_a_cursor_decodes_to_its_position() -> None:
    cursor = page([], ("2026-01-01T00:00:00", 7))["next_cursor"]

    assert decode_cursor(cursor, str, int) == ("2026-01-01T00:00:00", 7)
    assert decode_cursor("", str, int) is None
    assert page(["one"], None) == {"data": ["one"], "next_cursor": None}


@pytest.mark.parametrize(
    "cursor",
    ["x", "!", "é", "bnVsbA", "WzFd", "WyJhIiwgdHJ1ZV0", "WyJhIiwgMSwgMl0", "WyJhIiwgMTg0NDY3NDQwNzM3MDk1NTE2MTVd"],
)
def test_an_invalid_cursor_is_rejected(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        decode_cursor(cursor, str, int)
