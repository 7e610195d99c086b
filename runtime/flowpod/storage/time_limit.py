"""Time limits that count only while the event loop runs: a late event loop is no failure of the database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_TICKS = 20


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """Raise TimeoutError in the block after `seconds`; None is no limit."""
    if seconds is None:
        yield
        return
    async with asyncio.timeout(None) as limit:
        countdown = Countdown(seconds, lambda: limit.reschedule(0))
        try:
            yield
        finally:
            countdown.stop()


class Countdown:
    """Calls `at_end` in the event loop after `seconds`, unless it is stopped before.

    The time is counted in ticks, and a tick that comes late counts as one: the process was stopped or busy, so answers
    may have arrived that nobody could read.
    """

    def __init__(self, seconds: float, at_end: Callable[[], object]) -> None:
        self._at_end = at_end
        self._tick_s = seconds / _TICKS
        self._left = _TICKS
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def stop(self) -> None:
        """Do not call `at_end` any more."""
        self._timer.cancel()

    def _tick(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._tick_s, self._tick)
        else:
            self._at_end()
