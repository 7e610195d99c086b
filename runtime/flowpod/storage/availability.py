"""Whether the history's database answers."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from flowpod.errors import Unavailable

logger = logging.getLogger(__name__)

FAILURES = (SQLAlchemyError, OSError, TimeoutError, ValueError)
"""What a database that is away, or that refuses, raises by way of SQLAlchemy and the drivers."""


class Availability:
    """What is known of the database.

    `reached` says that it has answered once and that its tables are up to date, `lost` why it does not answer now, or
    is "", `answers` is set while it does, and `known` once it has been asked. `back_at` is when, by the monotonic
    clock, it answered again after it had not, and never while it does not. `on_loss` is called when it no longer does.
    """

    def __init__(self, on_loss: Callable[[], None] = lambda: None) -> None:
        self.migrated = False
        self.failure = "it has not answered yet"
        self.available = asyncio.Event()
        self.checked = asyncio.Event()
        self.recovered_at = -math.inf
        self._on_loss = on_loss

    def mark_available(self) -> None:
        """Take in that the database has answered."""
        if self.failure and self.migrated:
            logger.info("the chat history is reached")
            self.failure = ""
            if self.recovered_at == math.inf:
                self.recovered_at = time.monotonic()
            self.available.set()
            self.checked.set()

    def mark_migrated(self) -> None:
        """Take in that its tables are up to date."""
        self.migrated = True
        self.mark_available()

    def mark_unavailable(self, error: BaseException) -> None:
        """Take in that it has not answered."""
        before, self.failure, self.recovered_at = self.failure, reason_of(error), math.inf
        self.available.clear()
        self.checked.set()
        if self.failure != before:
            logger.warning("the chat history is out of reach, trying again: %s", self.failure)
        if not before:
            self._on_loss()

    @contextmanager
    def required(self) -> Iterator[None]:
        """Turn a failure of the block's statements into Unavailable, for a caller who may try again.

        While the database is known to be lost nothing is tried: whoever looks for it finds it again, and nobody waits.
        """
        message = "the chat history is out of reach, so stored sessions cannot be had now; try again"
        if self.failure:
            raise Unavailable(message, code="history_unavailable")
        try:
            yield
        except FAILURES as error:
            self.mark_unavailable(error)
            raise Unavailable(message, code="history_unavailable") from error


def reason_of(error: BaseException) -> str:
    """Return a database's own words."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
