"""Waiting for what other tasks, threads and processes do."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 30


async def until(holds: Callable[[], object]) -> None:
    """Return as soon as the condition holds; raise TimeoutError when it does not in time."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)
