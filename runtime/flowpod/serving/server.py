"""The HTTP server's life: how it listens, and how it ends without breaking a run."""

import asyncio
import gc
import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from flowpod.errors import InvalidRequest
from flowpod.service import FlowService
from flowpod.settings import Settings

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_GC_THRESHOLDS = (10_000, 20, 20)
_LAST_BYTES_S = 5
# Longer than clients and proxies keep a connection that nobody uses (nginx 60 s, most clients less): a server that
# closed it first would lose a request that is just being sent.
_KEEP_ALIVE_S = 75


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises InvalidRequest that says why the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise InvalidRequest(f"cannot listen on {host}:{port}: that is no name of a host") from error
    listener.set_inheritable(True)
    return listener


def collect_rarely() -> None:
    """Have Python look for cycles of garbage less often, and never in what is loaded by now.

    A run makes thousands of objects and hardly a cycle: with Python's own thresholds the search was a quarter of the
    processor time of a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class _DaemonExecutor(ThreadPoolExecutor):
    """The loop's own threads, for a flow that uses them: the loop does not wait for them at its end."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Let go of the threads."""
        super().shutdown(wait=False, cancel_futures=True)


class Server(uvicorn.Server):
    """uvicorn's server, ended in three steps.

    At SIGTERM the service says that it is not ready while it goes on taking work, so that load balancers turn away
    before anything is refused. Then it stops listening and gives its runs time to end. Then it cancels
    them, and each still stores its turn and sends its last event. SIGINT skips the first step, a second signal the
    second one too.
    """

    def __init__(self, app: ASGIApp, service: FlowService, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                root_path=settings.root_path,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_BYTES_S,
            )
        )
        self._service = service
        self._settings = settings
        self._hurry: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and know the loop that signals must wake."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(_DaemonExecutor())
        self._hurry = asyncio.Event()
        await super().startup(sockets)
        for listener in sockets or []:
            logger.info("serving flow %r on %s", self._service.name, _address(listener))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to end; a further signal hurries."""
        # uvicorn would raise the signal again at its end, and a clean exit would look like a crash: it is not told.
        self._signals += 1
        if self._loop is None:
            self.should_exit = True  # it has not started to serve, so there is nothing to wait for
        else:
            self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, sig: int) -> None:
        assert self._hurry is not None
        if self._signals > 1:
            self.should_exit = True
            self._hurry.set()
            self._service.cancel_all("the service is shutting down")
        elif sig == signal.SIGINT or not self._settings.drain_delay_s:
            self.should_exit = True
        else:
            logger.info("draining: not ready for new work, still taking it for %g s", self._settings.drain_delay_s)
            self._service.draining = True
            assert self._loop is not None
            self._loop.call_later(self._settings.drain_delay_s, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let the runs end, then close as uvicorn does."""
        assert self._hurry is not None
        for server in self.servers:
            server.close()
        grace = 0 if self._hurry.is_set() else self._settings.grace_s
        await self._service.finish(grace)
        await super().shutdown(sockets)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
