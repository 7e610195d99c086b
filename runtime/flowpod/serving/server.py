"""The HTTP server: it listens on a socket, and shuts down without breaking runs."""

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from flowpod.errors import InvalidRequest
from flowpod.service import FlowService
from flowpod.serving.connection import ServerConfig, connection_limits
from flowpod.serving.sweeper import Sweeper, descriptor_limit
from flowpod.settings import Settings

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_GC_THRESHOLDS = (10_000, 20, 20)
_LAST_BYTES_S = 5
# Longer than clients and proxies keep an idle connection (nginx 60 s, most clients less): if the server closed it
# first, a request that is just being sent would be lost.
_KEEP_ALIVE_S = 75


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has the address but does not listen yet; port 0 picks a free port.

    Raises InvalidRequest if the address is invalid or in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise InvalidRequest(f"cannot listen on {host}:{port}: this is not a valid host name") from error
    return bound


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; see `bind`."""
    listener = bind(host, port)
    listener.listen(_BACKLOG)
    return listener


def collect_rarely() -> None:
    """Make the garbage collector run less often and skip the objects that exist now.

    A run creates thousands of objects and hardly any reference cycles: with Python's default thresholds, collection
    took a quarter of the CPU time of a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class _DaemonExecutor(ThreadPoolExecutor):
    """The event loop's default executor, which flows may use; the loop does not wait for its threads when it closes."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Stop accepting work, without waiting for the threads."""
        super().shutdown(wait=False, cancel_futures=True)


class Server(uvicorn.Server):
    """uvicorn's server with a graceful shutdown in three steps.

    1. On SIGTERM the service reports that it is not ready but still accepts work, so that load balancers stop sending
       requests before any is rejected.
    2. It stops listening and gives its runs time to end.
    3. It cancels the remaining runs; each still stores its turn and sends its last event.

    SIGINT skips the first step; a second signal also skips the second. The server shuts down by itself, and sets
    `failed`, when the threads of the service have been exhausted for FLOWPOD_THREADS_EXIT_S.
    """

    def __init__(
        self, app: ASGIApp, service: FlowService, settings: Settings, on_started: Callable[[], None] | None = None
    ) -> None:
        config = ServerConfig(
            app,
            connection_limits(settings, descriptor_limit()),
            access_log=False,
            log_config=None,
            loop="uvloop",
            ws="none",
            lifespan="on",
            root_path=settings.root_path,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_LAST_BYTES_S,
        )
        super().__init__(config)
        self._sweeper = Sweeper(config, self.server_state)
        self._service = service
        self._settings = settings
        self._on_started = on_started
        self._skip_grace: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does; remember the event loop for signal handlers, and report the start."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(_DaemonExecutor())
        self._skip_grace = asyncio.Event()
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()
        self._sweeping = self._loop.create_task(self._sweeper.run())
        for listener in sockets or []:
            logger.info("serving flow %r on %s", self._service.name, _address(listener))

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second, and end a process whose threads do not return."""
        exhausted_at, limit_s = self._service.threads_exhausted_at, self._settings.threads_exit_s
        if exhausted_at is not None and not self.failed and time.monotonic() - exhausted_at >= limit_s:
            self.failed = True
            logger.error(
                "all threads have run code that does not return for %g s (FLOWPOD_THREADS_EXIT_S): this process ends "
                "and its supervisor has to start it again",
                limit_s,
            )
            self._drain()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin the shutdown; a second signal skips the grace period."""
        # uvicorn's own handler is not called: it raises the signal again after the shutdown, so that a clean exit would
        # look like a crash.
        self._signals += 1
        if self._loop is None:
            self.should_exit = True  # the server has not started, so there is nothing to wait for
        else:
            self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, sig: int) -> None:
        assert self._skip_grace is not None
        if self._signals > 1:
            self.should_exit = True
            self._skip_grace.set()
            self._service.cancel_all("the service is shutting down")
        elif sig == signal.SIGINT or not self._settings.drain_delay_s:
            self.should_exit = True
        else:
            self._drain()

    def _drain(self) -> None:
        logger.info("draining: reporting not ready, accepting requests for another %g s", self._settings.drain_delay_s)
        self._service.draining = True
        assert self._loop is not None
        self._loop.call_later(self._settings.drain_delay_s, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, wait for the runs to end, then shut down as uvicorn does."""
        assert self._skip_grace is not None
        for server in self.servers:
            server.close()
        grace = 0 if self._skip_grace.is_set() else self._settings.grace_s
        await self._service.finish(grace)
        await super().shutdown(sockets)
        self._sweeping.cancel()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
