"""Threads for synchronous code that may never return.

Neither anyio's nor the standard library's pool fits: both wait for their threads when the interpreter exits, and a run
that was cancelled must not wait for the code that it left behind.
"""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from flowpod.errors import NodeError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Job = Callable[[], None]


class Threads:
    """At most `limit` daemon threads, started when needed and kept for later calls.

    A call that is cancelled returns at once; its thread is abandoned: it stays counted, and within the limit, until the
    code in it returns.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.abandoned = 0
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[SimpleQueue[_Job]] = []

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return `function(*args, **kwargs)`, called in a thread with this task's context variables.

        Raises NodeError when every thread is held by code that was left behind.
        """
        if self.abandoned >= self.limit:
            text = f"all {self.limit} threads are held by code that does not return (FLOWPOD_THREADS)"
            raise NodeError(text, code="no_thread")
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        jobs = self._idle.pop() if self._idle else self._start()

        def job() -> None:
            try:
                value = context.run(function, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - whatever user code raises belongs to its caller
                self._report(loop, jobs, done, error=error)
            else:
                self._report(loop, jobs, done, value=value)

        jobs.put(job)
        try:
            return await done
        except asyncio.CancelledError:
            if done.cancelled():  # otherwise the code has returned in the same moment
                self.abandoned += 1
                text = "a thread was left behind in %s, which has not returned; %d of %d are"
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
            self._slots.release()  # the system has no thread to give; the next call may have more luck
            raise
        return jobs

    def _report(
        self,
        loop: asyncio.AbstractEventLoop,
        jobs: "SimpleQueue[_Job]",
        done: "asyncio.Future[Any]",
        value: Any = None,
        error: BaseException | None = None,
    ) -> None:
        def settle() -> None:
            self._idle.append(jobs)
            self._slots.release()
            if done.cancelled():
                self.abandoned -= 1
            elif error is None:
                done.set_result(value)
            else:
                done.set_exception(_harmless(error))

        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop was closed: the process is about to exit and nobody waits


def _harmless(error: BaseException) -> BaseException:
    """Return `error`, or one that names it: a future cannot carry StopIteration, SystemExit would stop the loop."""
    if isinstance(error, Exception | asyncio.CancelledError) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(repr(error)).with_traceback(error.__traceback__)
