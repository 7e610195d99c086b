"""The databases that can hold the chat history, one module each: everything that differs between them lives here.

SQL that they share belongs to the packages next to this one, and no code outside this one asks which database it uses.
"""

from collections.abc import Sequence

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from flowpod.errors import InvalidRequest
from flowpod.storage.dialects.base import Dialect
from flowpod.storage.dialects.mysql import MySQL
from flowpod.storage.dialects.sqlite import SQLite

__all__ = ["DIALECTS", "Dialect", "MySQL", "SQLite", "dialect_of"]

DIALECTS: Sequence[type[Dialect]] = (SQLite, MySQL)


def dialect_of(history: str, password: str | None = None) -> Dialect:
    """Return the database that `history`, a value of FLOWPOD_HISTORY, names.

    `password` takes precedence over one in the URL. Raises InvalidRequest for an invalid URL or option.
    """
    try:
        url = make_url(history)
    except (ArgumentError, ValueError):
        url = None
    if url is not None:
        for dialect in DIALECTS:
            if (found := dialect.from_url(url, password)) is not None:
                return found
    forms = ", ".join(dialect.url_form for dialect in DIALECTS)
    raise InvalidRequest(f"FLOWPOD_HISTORY: expected {forms} or off")
