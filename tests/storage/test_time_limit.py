"""A time limit of the database counts only while the event loop runs."""

import asyncio
import time

import pytest

from flowpod.storage.time_limit import time_limit


async def test_a_block_that_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        async with time_limit(0.05):
            await asyncio.sleep(60)


async def test_a_late_event_loop_is_no_reason_to_end_a_block() -> None:
    async with time_limit(1):
        asyncio.get_running_loop().call_soon(time.sleep, 1.5)  # what is ready by then comes first
        await asyncio.sleep(0.01)


async def test_no_limit_is_none() -> None:
    async with time_limit(None):
        await asyncio.sleep(0)
