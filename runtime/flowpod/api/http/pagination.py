"""Cursor pagination: each page of a list names the cursor of the next one."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from flowpod.api.http.requests import RequestModel
from flowpod.errors import InvalidRequest

NUMBER = re.compile(r"([0-9]{1,18})")
"""The cursor of a list in the order of a number, which a database column can hold."""


class Query(RequestModel, extra="forbid"):
    """Base of an endpoint's query parameters; unknown parameters are rejected."""


class PageQuery(Query):
    """Query parameters of a list: the page size, and the `next_cursor` of the previous page."""

    limit: int = Field(20, ge=1, le=100, description="The maximum number of items on the page.")
    cursor: str = Field("", description="The `next_cursor` of the previous page; leave it out for the first page.")


def page(items: Sequence[Any], next_position: Sequence[str | int] | None) -> dict[str, Any]:
    """Return the JSON body of a page; `next_position` is where the next page starts, None on the last page."""
    return {"data": list(items), "next_cursor": None if next_position is None else encode_cursor(next_position)}


def encode_cursor(position: Sequence[str | int]) -> str:
    """Return the cursor of the page that starts at `position`."""
    return "-".join(map(str, position))


def decode_cursor(cursor: str, pattern: re.Pattern[str]) -> Sequence[str] | None:
    """Return the position that a cursor encodes, the groups of `pattern`; None for an empty cursor.

    Raises InvalidRequest for a malformed cursor.
    """
    if not cursor:
        return None
    match = pattern.fullmatch(cursor)
    if match is None:
        message = "invalid cursor: use the next_cursor of the previous page"
        raise InvalidRequest(message, param="cursor", code="invalid_cursor")
    return match.groups()
