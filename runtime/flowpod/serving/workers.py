"""Several server processes on one socket, each replaced when it dies."""

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_SHORT_LIFE_S = 5.0
_SHORT_LIVES = 5


class Workers:
    """Runs `count` times the same command with a listening socket as `--fd`, until a signal ends them all.

    A worker's standard input is a pipe from here: when this process dies, however it does, the workers see its end.
    """

    def __init__(self, command: Sequence[str], listener: socket.socket, count: int) -> None:
        self._command = [*command, "--fd", str(listener.fileno())]
        self._listener = listener
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started: dict[int, float] = {}
        self._short_lives = 0
        self._signals: list[int] = []

    def run(self) -> int:
        """Return the exit status once every worker has ended."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            # Only noted here: a handler that acted could meet a worker that is just being started.
            signal.signal(sig, lambda number, _: self._signals.append(number))
        failed = False
        while not (self._signals or failed):
            if len(self._processes) < self._count:
                self._start()
                continue
            failed = not self._take_leave_of_dead()
            time.sleep(_POLL_S)
        return self._end(failed)

    def _start(self) -> None:
        process = subprocess.Popen(  # noqa: S603 - our own command
            self._command, stdin=subprocess.PIPE, pass_fds=[self._listener.fileno()], start_new_session=True
        )
        self._processes.append(process)
        self._started[process.pid] = time.monotonic()
        logger.info("worker %d started", process.pid)

    def _take_leave_of_dead(self) -> bool:
        """Drop workers that have ended; return whether others may be started in their place."""
        for process in [process for process in self._processes if process.poll() is not None]:
            self._processes.remove(process)
            lived = time.monotonic() - self._started.pop(process.pid)
            self._short_lives = self._short_lives + 1 if lived < _SHORT_LIFE_S else 0
            logger.warning("worker %d ended with status %d after %.1f s", process.pid, process.returncode, lived)
        if self._short_lives >= _SHORT_LIVES:
            logger.error("%d workers in a row ended as soon as they had started; giving up", self._short_lives)
            return False
        return True

    def _end(self, failed: bool) -> int:
        """Pass signals on until every worker has ended."""
        sent = 0
        signals = self._signals or [signal.SIGTERM]
        while any(process.poll() is None for process in self._processes):
            for sig in signals[sent:]:
                for process in self._processes:
                    if process.poll() is None:
                        process.send_signal(sig)
            sent = len(signals)
            time.sleep(_POLL_S)
            signals = self._signals or signals
        return 1 if failed or any(process.returncode for process in self._processes) else 0


def worker_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a worker that is told `arguments`."""
    return [sys.executable, "-m", "flowpod", *arguments]
