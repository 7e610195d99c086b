"""Whether the history's database is available."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from flowpod.errors import Unavailable

logger = logging.getLogger(__name__)

FAILURES = (SQLAlchemyError, OSError, TimeoutError, ValueError)
"""What SQLAlchemy and the drivers raise when the database is unavailable or refuses a statement."""


class Availability:
    """Whether the database can be read and written, as of the last statement.

    `migrated`: it has had its tables, and could be written, once. `failure`: why it is unavailable, or "".
    `available`: set while it is available. `checked`: set after the first check. `on_failure` is called when it becomes
    unavailable.
    """

    def __init__(self, on_failure: Callable[[], None] = lambda: None) -> None:
        self.migrated = False
        self.failure = "it has not been checked yet"
        self.available = asyncio.Event()
        self.checked = asyncio.Event()
        self._on_failure = on_failure

    def mark_available(self) -> None:
        """Mark the database as available, once it has been migrated."""
        if self.failure and self.migrated:
            logger.info("the chat history is available")
            self.failure = ""
            self.available.set()
            self.checked.set()

    def mark_unavailable(self, error: BaseException) -> None:
        """Mark the database as unavailable because of `error`."""
        before, self.failure = self.failure, reason_of(error)
        self.available.clear()
        self.checked.set()
        if self.failure != before:
            logger.warning("the chat history is unavailable, retrying: %s", self.failure)
        if not before:
            self._on_failure()

    @contextmanager
    def required(self) -> Iterator[None]:
        """Raise Unavailable for a failure of the block's statements.

        While the database is known to be unavailable, it raises at once, without running the block.
        """
        message = "the chat history is unavailable, so stored sessions cannot be used; try again"
        if self.failure:
            raise Unavailable(message, code="history_unavailable")
        try:
            yield
        except FAILURES as error:
            self.mark_unavailable(error)
            raise Unavailable(message, code="history_unavailable") from error


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, for `seconds` at most; return whether it is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def reason_of(error: BaseException) -> str:
    """Return the database's own message."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
