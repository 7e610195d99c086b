import re

import pytest

from flowpod.api.http.pagination import NUMBER, decode_cursor, page
from flowpod.errors import InvalidRequest

TWO = re.compile(r"([0-9]+)-(.+)")


def test_a_cursor_decodes_to_its_position() -> None:
    assert page([], (7, "a-b"))["next_cursor"] == "7-a-b"
    assert decode_cursor("7-a-b", TWO) == ("7", "a-b")
    assert decode_cursor("", TWO) is None


@pytest.mark.parametrize("cursor", ["x", "-1", "7-", "1.5", "\u0663", "9" * 19])
def test_an_invalid_cursor_is_rejected(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        decode_cursor(cursor, NUMBER)
