"""Waiting for what other tasks, threads and processes do."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 30


async def until(holds: Callable[[], object]) -> None:
    """Return as soon as the condition holds; raise TimeoutError when it does not in time."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Return as soon as the condition holds; fail when `what` does not happen in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
