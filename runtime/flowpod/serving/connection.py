"""A client's connection: limits on what it sends before the application sees it, and on how long it may stall."""

import fcntl
import logging
import struct
import termios
from asyncio import AbstractEventLoop, Transport
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from flowpod.api.http.errors import error_body
from flowpod.errors import ErrorInfo, ErrorType
from flowpod.jsonable import dumps
from flowpod.settings import Settings

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
MAX_TARGET_BYTES = 8 * 1024
_LINGER_S = 2.0
_CROWDED_S = 2.0

_ERRORS: dict[int, tuple[ErrorType, str]] = {
    400: ("invalid_request_error", "bad_request"),
    408: ("invalid_request_error", "request_timeout"),
    431: ("invalid_request_error", "headers_too_large"),
    503: ("unavailable_error", "too_many_connections"),
}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a connection may stall, in seconds, and how many connections may be open."""

    header_s: float
    body_s: float
    write_s: float
    connections: int


def connection_limits(settings: Settings, descriptors: int) -> ConnectionLimits:
    """Return the limits of a process that may open `descriptors` files.

    Half of the descriptors are for clients, because a run needs another one for its model.
    """
    connections = min(settings.max_connections, max(1, descriptors // 2))
    return ConnectionLimits(settings.header_timeout_s, settings.body_timeout_s, settings.write_timeout_s, connections)


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, with the limits of connections and a count of those that were turned away."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.limits = limits
        self.turned_away = 0


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. A Sweeper calls `check` about once a second.

    httptools keeps an incomplete header in memory and copies it with each read, so bytes are counted before it gets
    them. `_room` is the number of bytes that it may still get before a request's headers, or the next bytes of its
    body, have to be complete. A head that begins in the middle of a read is counted from the next read on.
    """

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gate = config
        self._limits = config.limits
        self._phase: Literal["idle", "head", "body"] = "idle"
        self._room = MAX_HEAD_BYTES
        self._refused = False
        self._since = self.loop.time()  # when the client last did what it had to
        self._unsent = 0
        self._unsent_since = 0.0
        # uvicorn knows only the latest request, but a client that pipelines has several.
        self._cycles: deque[RequestResponseCycle] = deque()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Accept the connection, or refuse it if too many are open."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._gate.turned_away += 1
            self._refused = True
            transport.write(self._error(503, "too many connections are open (FLOWPOD_MAX_CONNECTIONS)"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the application see that the client of each unfinished request has left."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, unless it exceeds the limits."""
        if self._refused:
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self._phase != "head":  # a head has to be complete in time, a body only has to progress
            self._since = self.loop.time()
            if self._phase == "idle":
                self._phase = "head"
        if len(data) <= self._room:
            self._feed(data)
        else:
            self._feed_slices(memoryview(data))

    def _feed_slices(self, data: memoryview) -> None:
        while data and not self._refused:
            if self._room <= 0:
                self._refuse(431, f"the request's headers exceed {MAX_HEAD_BYTES} bytes")
                return
            room = self._room
            self._feed(data[:room])
            data = data[room:]

    def _feed(self, data: bytes | memoryview) -> None:
        self._room -= len(data)
        try:
            while not self._refused:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    self._ignore_upgrade()
        except httptools.HttpParserError:
            self._refuse(400, "the request is not valid HTTP")

    def _ignore_upgrade(self) -> None:
        """Parse the request's head again without `Upgrade`, which a server may ignore (RFC 9110, 7.8).

        With it, the parser takes the body for another protocol.
        """
        if self._phase != "head":  # CONNECT, which has no body; what follows its response would not be HTTP
            self._cycles[-1].keep_alive = False
            self._refused = True
            return
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_url(self, url: bytes) -> None:
        """Add to the request's target, unless it is too long."""
        self.url += url
        self._phase = "head"  # also when the request before it ended in the same read
        if len(self.url) > MAX_TARGET_BYTES:
            self._refuse(431, f"the request's target exceeds {MAX_TARGET_BYTES} bytes")
            raise httptools.HttpParserError  # stops the parser

    def on_headers_complete(self) -> None:
        """Start the application, unless the request asks for another protocol: then its head is parsed again."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return
        super().on_headers_complete()
        self.headers = []  # uvicorn would add the trailers of the body to the headers that the application has
        self._phase = "body"
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        super().on_body(body)
        self._room = MAX_HEAD_BYTES

    def on_message_complete(self) -> None:
        """End the request, and wait for the next one."""
        if self._phase == "body":
            if not self.cycle.response_complete:
                self.cycle.more_body = False
                self.cycle.message_event.set()
            self._phase = "idle"
            self._room = MAX_HEAD_BYTES

    def on_response_complete(self) -> None:
        """Go on with the next pipelined request, or wait for one."""
        self._cycles.popleft()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not valid HTTP."""
        self._refuse(400, msg)

    def check(self, now: float, crowded: bool) -> None:
        """Close the connection if the client stalls; `crowded` is whether its place is needed for another client."""
        waited = now - self._since
        if self._does_not_read(now):
            logger.info("a client has not read its response for %g s: disconnecting it", self._limits.write_s)
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._refused:
            if not self._cycles and waited > _LINGER_S:
                self.transport.close()
        elif self._phase == "body":
            self._check_body(now, waited)
        elif self._cycles:
            self._since = now  # the client waits for us
        elif waited > (min(self._limits.header_s, _CROWDED_S) if crowded else self._limits.header_s):
            if self._phase == "head":
                self._refuse(408, "the request's headers did not arrive in time (FLOWPOD_HEADER_TIMEOUT_S)")
            elif self.cycle is None or crowded:  # uvicorn ends an idle connection that had a request
                self.transport.close()

    def _check_body(self, now: float, waited: float) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._since = now  # the client cannot send
        elif waited > self._limits.body_s:
            self._refuse(408, "the request's body did not arrive in time (FLOWPOD_BODY_TIMEOUT_S)")

    def _does_not_read(self, now: float) -> bool:
        """Return whether nothing of a response that waits to be sent has left for too long."""
        size = self.transport.get_write_buffer_size()
        if not size or (self._cycles and not self.flow.write_paused):
            self._unsent = 0
            return False
        unsent = size + _bytes_in_kernel(self.transport)
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return now - self._unsent_since > self._limits.write_s

    def _refuse(self, status: int, message: str) -> None:
        """Respond with an error and close, without the application. A request that it has begun sees a disconnect."""
        if self._refused:
            return
        self._refused = True
        self._since = self.loop.time()
        logger.info("refused a request with %d: %s", status, message)
        if self._phase != "body" and self._cycles:
            self._cycles[-1].keep_alive = False  # the requests before this one get their responses, then it closes
        elif self._phase != "body" or (len(self._cycles) == 1 and not self.cycle.response_started):
            for cycle in self._cycles:
                cycle.disconnected = True
                cycle.message_event.set()
            self._cycles.clear()
            self.transport.write(self._error(status, message))
            # A client that is still sending would lose the response if the socket were closed now (RFC 9112, 9.6).
            self.transport.write_eof()
        else:
            self.transport.close()

    def _error(self, status: int, message: str) -> bytes:
        kind, code = _ERRORS[status]
        body = dumps(error_body(ErrorInfo(message, kind, None, code)))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        if status == 503:
            headers.append((b"retry-after", b"2"))
        return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body


def _bytes_in_kernel(transport: Transport) -> int:
    """Return the number of bytes that were written and that the client's system has not confirmed.

    Without them, a slow client would seem to stall: the kernel asks for more only when a third of its buffer is free.
    """
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # the system does not count them, or the socket is closed
        return 0
    return int(struct.unpack("i", answer)[0])
