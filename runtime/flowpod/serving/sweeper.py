"""Looking after open connections: one pass over all of them about once a second, instead of a timer for each."""

import asyncio
import errno
import logging
import os
import resource
import sys
from typing import NoReturn, cast

from uvicorn.server import ServerState

from flowpod.serving.connection import Connection, ServerConfig

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_LOG_INTERVAL_S = 30.0


def raise_descriptor_limit() -> None:
    """Let this process open as many files as the system allows: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # some systems allow less than they say
        logger.warning("the limit of open files stays at %d: %s", soft, error)


def descriptor_limit() -> int:
    """Return how many files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Sweeper:
    """Closes the connections of a server that stall, and logs when it turns clients away or cannot accept them."""

    def __init__(self, config: ServerConfig, state: ServerState) -> None:
        self._config = config
        self._state = state
        self._next_log = 0.0

    async def run(self) -> NoReturn:
        """Sweep until this is cancelled.

        Nothing is closed after the process was stopped or busy: what clients have sent meanwhile is not read yet.
        """
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await asyncio.sleep(_INTERVAL_S)
            if loop.time() - started > 2 * _INTERVAL_S:
                continue
            turned_away, self._config.turned_away = self._config.turned_away, 0
            exhausted = _descriptors_have_run_out()
            for connection in list(self._state.connections):
                cast(Connection, connection).check(loop.time(), bool(turned_away) or exhausted)
            if (turned_away or exhausted) and loop.time() >= self._next_log:
                self._next_log = loop.time() + _LOG_INTERVAL_S
                self._log(turned_away, exhausted)

    def _log(self, turned_away: int, exhausted: bool) -> None:
        count, limit = len(self._state.connections), self._config.limits.connections
        if exhausted:
            text = "no file descriptor is left of %d (ulimit -n): %d connections are open, and new ones are dropped"
            logger.error(text, descriptor_limit(), count)
        else:
            text = "turned away %d connections: %d of at most %d are open (FLOWPOD_MAX_CONNECTIONS and ulimit -n)"
            logger.warning(text, turned_away, count, limit)


def _descriptors_have_run_out() -> bool:
    # The event loop drops connections without a word then (libuv's uv__emfile_trick), so this tries for itself.
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False
