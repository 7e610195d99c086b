"""Cursor pagination: each page of a list names the cursor of the next one."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import Field

from flowpod.api.http.requests import RequestModel
from flowpod.errors import InvalidRequest

_MAX_INTEGER = 2**63 - 1  # the largest integer of a database column


class Query(RequestModel, extra="forbid"):
    """Base of an endpoint's query parameters; unknown parameters are rejected."""


class PageQuery(Query):
    """Query parameters of a list: the page size, and the `next_cursor` of the previous page."""

    limit: int = Field(20, ge=1, le=100, description="The maximum number of items on the page.")
    cursor: str = Field("", description="The `next_cursor` of the previous page; leave it out for the first page.")


def page(items: Sequence[Any], next_position: Sequence[str | int] | None) -> dict[str, Any]:
    """Return the JSON body of a page; `next_position` is where the next page starts, None on the last page."""
    cursor = (
        None if next_position is None else urlsafe_b64encode(orjson.dumps(list(next_position))).decode().rstrip("=")
    )
    return {"data": list(items), "next_cursor": cursor}


def decode_cursor(cursor: str, *types: type[str] | type[int]) -> tuple[Any, ...] | None:
    """Return the position that a cursor encodes, one value of each of `types`; None for an empty cursor.

    Raises InvalidRequest for a malformed cursor.
    """
    if not cursor:
        return None
    try:
        position = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        position = None
    if (
        not isinstance(position, list)
        or len(position) != len(types)
        or not all(type(value) is expected for value, expected in zip(position, types, strict=True))
        or not all(abs(value) <= _MAX_INTEGER for value in position if isinstance(value, int))
    ):
        message = "invalid cursor: use the next_cursor of the previous page"
        raise InvalidRequest(message, param="cursor", code="invalid_cursor")
    return tuple(position)
