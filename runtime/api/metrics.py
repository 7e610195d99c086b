"""`GET /metrics`: what all workers counted, as Prometheus reads it."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from runtime.telemetry.prometheus import CONTENT_TYPE, prometheus_text
from runtime.telemetry.snapshots import Snapshots


class MetricsPage:
    """The metrics endpoint."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    async def answer(self, request: Request) -> Response:  # noqa: ARG002
        """Answer with the sum over the workers."""
        text = await asyncio.to_thread(lambda: prometheus_text(self._snapshots.families()))
        return Response(text, media_type=CONTENT_TYPE)
