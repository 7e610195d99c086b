import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from flowpod.errors import NodeError
from flowpod.threads import Threads
from tests.support.serving import ROOT
from tests.support.waiting import until

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOUR", default="none")


async def test_function_gets_its_arguments_and_its_value_comes_back() -> None:
    def join(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    arguments = {"function": 1, "self": 2, "key": 3}
    assert await Threads(1).run(join, 4, **arguments) == ((4,), arguments)


async def test_function_runs_outside_the_loops_thread() -> None:
    assert await Threads(1).run(threading.get_ident) != threading.get_ident()


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("k"), asyncio.CancelledError("inner")])
async def test_exception_comes_back_as_it_is(error: BaseException) -> None:
    threads = Threads(1)
    with pytest.raises(type(error)) as caught:
        await threads.run(fail, error)
    assert caught.value is error
    assert threads.abandoned == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StopIteration("v"), "StopIteration('v')"),
        (SystemExit(2), "SystemExit(2)"),
        (KeyboardInterrupt(), "KeyboardInterrupt()"),
        (GeneratorExit(), "GeneratorExit()"),
    ],
)
async def test_exception_that_would_stop_the_loop_becomes_a_runtime_error(error: BaseException, text: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        await Threads(1).run(fail, error)
    assert str(caught.value) == text
    assert caught.traceback[-1].name == "fail"


async def test_no_more_than_the_limit_run_at_once() -> None:
    threads, lock = Threads(3), threading.Lock()
    now, most = 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(20)))
    assert most == 3


async def test_idle_thread_is_used_again() -> None:
    threads = Threads(10)
    assert len({await threads.run(threading.get_ident) for _ in range(10)}) == 1
    with pytest.raises(ValueError, match="bad"):
        await threads.run(fail, ValueError("bad"))
    barrier = threading.Barrier(2)
    await asyncio.gather(threads.run(barrier.wait), threads.run(barrier.wait))
    before = threading.active_count()
    barrier.reset()
    await asyncio.gather(threads.run(barrier.wait), threads.run(barrier.wait))
    assert threading.active_count() == before


async def test_function_sees_the_tasks_context_and_cannot_change_it() -> None:
    def change() -> str:
        before = COLOUR.get()
        COLOUR.set("changed")
        return before

    threads = Threads(1)
    COLOUR.set("red")
    assert await threads.run(change) == "red"
    assert COLOUR.get() == "red"
    COLOUR.set("blue")
    assert await threads.run(change) == "blue"


async def test_cancelled_call_returns_at_once_and_its_thread_is_counted_until_it_ends() -> None:
    threads, go, begun = Threads(2), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(20)

    task = asyncio.create_task(threads.run(work))
    await until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not go.is_set()
    assert threads.abandoned == 1
    assert await threads.run(lambda: "other") == "other"
    go.set()
    await until(lambda: threads.abandoned == 0)


async def test_abandoned_thread_stays_within_the_limit() -> None:
    threads, go = Threads(1), threading.Event()
    task = asyncio.create_task(threads.run(go.wait, 20))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(NodeError, match="all 1 threads run code that does not return"):
        await threads.run(lambda: "next")
    go.set()
    await until(lambda: not threads.abandoned)
    assert await threads.run(lambda: "next") == "next"


async def test_failure_of_an_abandoned_call_is_dropped() -> None:
    threads, go = Threads(1), threading.Event()

    def work() -> None:
        go.wait(20)
        raise ValueError("nobody waits for this")

    task = asyncio.create_task(threads.run(work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await until(lambda: not threads.abandoned)
    assert await threads.run(lambda: "next") == "next"


async def test_call_cancelled_while_it_waits_takes_no_thread() -> None:
    threads, go = Threads(1), threading.Event()
    ran: list[str] = []
    first = asyncio.create_task(threads.run(go.wait, 20))
    await asyncio.sleep(0)
    second = asyncio.create_task(threads.run(ran.append, "second"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    assert threads.abandoned == 0
    go.set()
    assert await first is True
    assert await threads.run(lambda: "next") == "next"
    assert ran == []


async def test_call_cancelled_in_the_moment_it_ends_is_not_abandoned() -> None:
    threads, go, over = Threads(1), threading.Event(), threading.Event()

    def work() -> None:
        go.wait(20)
        over.set()

    task = asyncio.create_task(threads.run(work))
    await asyncio.sleep(0)
    go.set()
    over.wait(20)
    time.sleep(0.1)  # noqa: ASYNC251 - the loop must stand still until the thread has reported
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait([task])
    assert await threads.run(lambda: "next") == "next"
    assert threads.abandoned == 0


STUCK = """
import asyncio, threading
from flowpod.threads import Threads

begun = threading.Event()

def stuck():
    begun.set()
    threading.Event().wait({seconds})

async def main():
    threads = Threads(4)
    task = asyncio.create_task(threads.run(stuck))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    print("cancelled", threads.abandoned)

asyncio.run(main())
threading.Event().wait({after})
"""


@pytest.mark.parametrize(("seconds", "after"), [(600, 0), (0.2, 0.6)])
def test_process_ends_without_waiting_for_a_stuck_thread(seconds: float, after: float) -> None:
    script = STUCK.format(seconds=seconds, after=after)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    warning = "abandoned a thread in stuck, which has not returned; 1 of 4 threads are abandoned\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelled 1\n", warning)
