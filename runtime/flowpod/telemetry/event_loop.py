"""The lag of the event loop: code that blocks it delays every run."""

import asyncio

from flowpod.telemetry.metrics import Metrics

_INTERVAL_S = 0.5


async def watch_event_loop(metrics: Metrics) -> None:
    """Measure the lag of the current event loop until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        metrics.event_loop_lagged(max(0.0, loop.time() - due))
