"""A time limit that counts only while the event loop runs: a late event loop is no failure of the database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_TICKS = 20


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """Raise TimeoutError in the block after `seconds`; None is no limit.

    The time is counted in ticks, and a tick that comes late counts as one: the process was stopped or busy, so answers
    may have arrived that nobody could read.
    """
    if seconds is None:
        yield
        return
    async with asyncio.timeout(None) as limit:
        ticks = _Ticks(limit, seconds / _TICKS)
        try:
            yield
        finally:
            ticks.stop()


class _Ticks:
    def __init__(self, limit: asyncio.Timeout, tick_s: float) -> None:
        self._limit = limit
        self._tick_s = tick_s
        self._left = _TICKS
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(tick_s, self._tick)

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._tick_s, self._tick)
        else:
            self._limit.reschedule(self._loop.time())
