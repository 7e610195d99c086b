"""`GET /metrics`: the metrics of all workers in Prometheus's text format."""

import asyncio
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from flowpod.telemetry.families import Family
from flowpod.telemetry.prometheus import CONTENT_TYPE, prometheus_text


class MetricsPage:
    """The metrics endpoint."""

    def __init__(self, families: Callable[[], Sequence[Family]]) -> None:
        self._families = families

    async def handle(self, request: Request) -> Response:  # noqa: ARG002
        """Respond with the sums over all workers."""
        text = await asyncio.to_thread(lambda: prometheus_text(self._families()))
        return Response(text, media_type=CONTENT_TYPE)
