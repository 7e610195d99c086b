"""Whether the history's database answers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from runtime.errors import Unavailable

logger = logging.getLogger(__name__)

FAILURES = (SQLAlchemyError, OSError, TimeoutError, ValueError)
"""What a database that is away, or that refuses, raises by way of SQLAlchemy and the drivers."""


class Reach:
    """What is known of the database: `reached` says that it ever answered, `lost` why it does not now, or is ""."""

    def __init__(self) -> None:
        self.reached = False
        self.lost = "it has not answered yet"

    def found(self) -> None:
        """Take in that the database has answered."""
        if self.lost:
            logger.info("the chat history is reached")
        self.reached, self.lost = True, ""

    def failed(self, error: BaseException) -> None:
        """Take in that it has not."""
        reason = reason_of(error)
        if reason != self.lost:
            logger.warning("the chat history is out of reach, trying again: %s", reason)
        self.lost = reason

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Turn a failure of the block's statements into Unavailable, for a caller who may try again."""
        try:
            yield
        except FAILURES as error:
            self.failed(error)
            message = "the chat history is out of reach, so stored sessions cannot be had now; try again"
            raise Unavailable(message, code="history_unavailable") from error
        self.found()


def reason_of(error: BaseException) -> str:
    """Return a database's own words."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
