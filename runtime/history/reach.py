"""Whether the history's database answers."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from runtime.errors import Unavailable

logger = logging.getLogger(__name__)

FAILURES = (SQLAlchemyError, OSError, TimeoutError, ValueError)
"""What a database that is away, or that refuses, raises by way of SQLAlchemy and the drivers."""


class Reach:
    """What is known of the database.

    `reached` says that it has answered once and that its tables are up to date, `lost` why it does not answer now, or
    is "", `answers` is set while it does, and `known` once it has been asked. `back_at` is when, by the monotonic
    clock, it answered again after it had not, and never while it does not. `on_loss` is called when it no longer does.
    """

    def __init__(self, on_loss: Callable[[], None] = lambda: None) -> None:
        self.reached = False
        self.lost = "it has not answered yet"
        self.answers = asyncio.Event()
        self.known = asyncio.Event()
        self.back_at = -math.inf
        self._on_loss = on_loss

    def found(self) -> None:
        """Take in that the database has answered."""
        if self.lost and self.reached:
            logger.info("the chat history is reached")
            self.lost = ""
            if self.back_at == math.inf:
                self.back_at = time.monotonic()
            self.answers.set()
            self.known.set()

    def ready(self) -> None:
        """Take in that its tables are up to date."""
        self.reached = True
        self.found()

    def failed(self, error: BaseException) -> None:
        """Take in that it has not answered."""
        before, self.lost, self.back_at = self.lost, reason_of(error), math.inf
        self.answers.clear()
        self.known.set()
        if self.lost != before:
            logger.warning("the chat history is out of reach, trying again: %s", self.lost)
        if not before:
            self._on_loss()

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Turn a failure of the block's statements into Unavailable, for a caller who may try again.

        While the database is known to be lost nothing is tried: whoever looks for it finds it again, and nobody waits.
        """
        message = "the chat history is out of reach, so stored sessions cannot be had now; try again"
        if self.lost:
            raise Unavailable(message, code="history_unavailable")
        try:
            yield
        except FAILURES as error:
            self.failed(error)
            raise Unavailable(message, code="history_unavailable") from error


def reason_of(error: BaseException) -> str:
    """Return a database's own words."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
