"""Cursor pages: a listing is read page by page, each of which names where the next one begins."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from flowpod.errors import InvalidRequest

_LARGEST = 2**63 - 1  # what databases count up to


class Query(BaseModel):
    """The query of an endpoint, which takes no other parameters than its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PageQuery(Query):
    """The query of a listing: how many items, and the `next_cursor` of the page before."""

    limit: int = Field(20, ge=1, le=100, description="How many items the page may have.")
    cursor: str = Field("", description="The `next_cursor` of the page before; without it the first page.")


def page(items: Sequence[Any], next_position: Sequence[str | int] | None) -> dict[str, Any]:
    """Return a page as it is answered; `next_position` is where the next one begins, None after the last."""
    cursor = (
        None if next_position is None else urlsafe_b64encode(orjson.dumps(list(next_position))).decode().rstrip("=")
    )
    return {"data": list(items), "next_cursor": cursor}


def position_of(cursor: str, *kinds: type[str] | type[int]) -> tuple[Any, ...] | None:
    """Return the position that a cursor stands for, a value of each of `kinds`; None for no cursor.

    Raises InvalidRequest for a cursor that no page has named.
    """
    if not cursor:
        return None
    try:
        position = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        position = None
    if (
        not isinstance(position, list)
        or len(position) != len(kinds)
        or not all(type(value) is kind for value, kind in zip(position, kinds, strict=True))
        or not all(abs(value) <= _LARGEST for value in position if isinstance(value, int))
    ):
        raise InvalidRequest("the cursor is none that a page has named", param="cursor", code="invalid_cursor")
    return tuple(position)
