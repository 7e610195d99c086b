"""Threads for synchronous code that may never return.

The thread pools of anyio and of the standard library wait for their threads when the interpreter exits. A cancelled run
must not wait for code that does not return, so these threads are daemons.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from flowpod.errors import NodeError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Job = Callable[[], None]


class Threads:
    """A pool of at most `limit` daemon threads, started on demand and reused.

    A cancelled call returns at once. Its thread is then abandoned: it counts towards the limit until its code returns.
    `exhausted_at` is when the last thread was abandoned, on the monotonic clock; None while any thread can be used.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.abandoned = 0
        self.exhausted_at: float | None = None
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[SimpleQueue[_Job]] = []

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call a function in a thread, in this task's context; raises NodeError if every thread is abandoned."""
        if self.exhausted_at is not None:
            text = f"all {self.limit} threads run code that does not return (FLOWPOD_THREADS)"
            raise NodeError(text, code="no_thread")
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        jobs = self._idle.pop() if self._idle else self._start()

        def report(value: Any, error: BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the process is exiting and nothing awaits the result
                loop.call_soon_threadsafe(self._settle, jobs, done, value, error)

        def job() -> None:
            try:
                value = context.run(function, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - every exception of user code is passed to its caller
                report(None, error)
            else:
                report(value, None)

        jobs.put(job)
        try:
            return await done
        except asyncio.CancelledError:
            if done.cancelled():  # otherwise the code returned at the same moment
                self.abandoned += 1
                if self.abandoned == self.limit:
                    self.exhausted_at = time.monotonic()
                text = "abandoned a thread in %s, which has not returned; %d of %d threads are abandoned"
                logger.warning(text, getattr(function, "__name__", function), self.abandoned, self.limit)
            raise

    def _start(self) -> "SimpleQueue[_Job]":
        jobs: SimpleQueue[_Job] = SimpleQueue()

        def work() -> None:
            while True:
                jobs.get()()

        try:
            threading.Thread(target=work, name="flowpod-node", daemon=True).start()
        except RuntimeError:
            self._slots.release()  # the system is out of threads; a later call may succeed
            raise
        return jobs

    def _settle(
        self, jobs: "SimpleQueue[_Job]", done: "asyncio.Future[Any]", value: Any, error: BaseException | None
    ) -> None:
        self._idle.append(jobs)
        self._slots.release()
        if done.cancelled():
            self.abandoned -= 1
            self.exhausted_at = None
        elif error is None:
            done.set_result(value)
        else:
            done.set_exception(_for_future(error))


def _for_future(error: BaseException) -> BaseException:
    """Return `error`, or a RuntimeError with its repr if a future cannot hold it (StopIteration, SystemExit)."""
    if isinstance(error, Exception | asyncio.CancelledError) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(repr(error)).with_traceback(error.__traceback__)
