"""The access log: one line per finished request, except health probes."""

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowpod.api.http.errors import path_of
from flowpod.api.http.middleware import PROBES
from flowpod.logs import FIELDS
from flowpod.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class AccessLog:
    """Logs each request and counts the streams in progress."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or path_of(scope) in PROBES:
            await self._app(scope, receive, send)
            return
        record = _ResponseRecord(self._metrics)

        async def observed_send(message: Message) -> None:
            await send(message)
            record.observe(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            record.log(scope["method"], path_of(scope))


class _ResponseRecord:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._streaming = False
        self._started = time.perf_counter()
        self._first_byte: float | None = None
        self._status = 0
        self._complete = False

    def observe(self, message: Message) -> None:
        """Record a message that was sent to the client."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if Headers(raw=message.get("headers", [])).get("content-type", "").startswith("text/event-stream"):
                self._streaming = True
                self._metrics.stream_began()
        elif message["type"] == "http.response.body":
            if self._first_byte is None and message.get("body"):
                self._first_byte = time.perf_counter() - self._started
            self._complete = not message.get("more_body", False)

    def log(self, method: str, path: str) -> None:
        """Write the log line of the request."""
        if self._streaming:
            self._metrics.stream_ended()
        seconds = time.perf_counter() - self._started
        first = "" if self._first_byte is None else f", first byte after {self._first_byte:.3f} s"
        left = "" if self._complete else ", the client left"
        fields = {
            "method": method,
            "path": path,
            "status": self._status,
            "duration": round(seconds, 6),
            "first_byte": None if self._first_byte is None else round(self._first_byte, 6),
            "whole": self._complete,
        }
        text = "%s %s %d in %.3f s%s%s"
        logger.info(text, method, path, self._status, seconds, first, left, extra={FIELDS: fields})
