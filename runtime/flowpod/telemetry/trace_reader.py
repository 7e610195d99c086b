"""Look-ups in the trace store for callers: on threads of their own, limited in number and in time."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flowpod.errors import Unavailable
from flowpod.telemetry.trace_store import Stopped, TraceStore
from flowpod.telemetry.trace_writer import TraceWriter

T = TypeVar("T")

_THREADS = 2
_MAX_WAITING = 8
_TIMEOUT_S = 10.0
_FLUSH_MS = 1000


class TraceReader:
    """Reads the store behind a processor. Two look-ups run at once and eight wait; further ones are refused.

    `free` is how many more are accepted now.
    """

    def __init__(self, processor: TraceWriter, timeout_s: float = _TIMEOUT_S) -> None:
        self._processor = processor
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_THREADS, "flowpod-trace-reader")
        self._lock = threading.Lock()
        self.free = _THREADS + _MAX_WAITING

    async def read(self, search: Callable[[TraceStore, Stopped], T]) -> T:
        """Call `search` in a thread, after the runs that have ended by now were stored; cancelling stops it.

        Raises Unavailable if too many look-ups are in progress, if it takes too long, or if the store cannot be read.
        """
        if not self.free:
            text = f"{_THREADS + _MAX_WAITING} searches of the traces are in progress, which is the limit; try again"
            raise Unavailable(text, code="traces_busy")
        left, deadline = threading.Event(), time.monotonic() + self._timeout_s

        def stopped() -> bool:
            return left.is_set() or time.monotonic() > deadline

        def work() -> T:
            self._processor.force_flush(_FLUSH_MS)
            return search(self._processor.store, stopped)

        self._change_free(-1)
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._change_free(1))
        try:
            return await asyncio.wrap_future(future)
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                text = (
                    f"the search took longer than {self._timeout_s:g} s; narrow it, for example to a session or a user"
                )
                raise Unavailable(text, code="traces_timeout") from error
            text = f"the traces cannot be read: {error}"
            raise Unavailable(text, code="traces_unavailable", plain="the traces cannot be read") from error
        finally:
            left.set()

    def _change_free(self, by: int) -> None:
        with self._lock:
            self.free += by
