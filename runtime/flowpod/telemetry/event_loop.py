"""How late the event loop is: what holds it up holds up every run."""

import asyncio

from flowpod.telemetry.metrics import Metrics

_EVERY_S = 0.5


async def watch_event_loop(metrics: Metrics) -> None:
    """Measure the loop that runs this, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        metrics.loop_was_late(max(0.0, loop.time() - due))
