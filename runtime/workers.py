"""Several server processes on one socket, each replaced when it dies."""

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_SHORTEST_LIFE_S = 2.0


class Workers:
    """Runs `count` times the same command with a listening socket as `--fd`, until a signal ends them all."""

    def __init__(self, command: Sequence[str], listener: socket.socket, count: int) -> None:
        self._command = [*command, "--fd", str(listener.fileno())]
        self._listener = listener
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started: dict[int, float] = {}
        self._ending = False

    def run(self) -> int:
        """Return the exit status once every worker has ended."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda number, _: self._end(number))
        self._processes = [self._start() for _ in range(self._count)]
        while not self._ending:
            time.sleep(_POLL_S)
            if not self._replace_dead():
                self._end(signal.SIGTERM)
        return max(abs(process.wait()) for process in self._processes)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, pass_fds=[self._listener.fileno()], start_new_session=True)  # noqa: S603
        self._started[process.pid] = time.monotonic()
        logger.info("worker %d started", process.pid)
        return process

    def _replace_dead(self) -> bool:
        """Return whether the workers can go on: one that dies at once would die again."""
        for index, process in enumerate(self._processes):
            if process.poll() is None or self._ending:
                continue
            if time.monotonic() - self._started.pop(process.pid) < _SHORTEST_LIFE_S:
                logger.error(
                    "worker %d ended with status %d as soon as it had started",
                    process.pid,
                    process.returncode,
                )
                return False
            logger.warning("worker %d ended with status %d; starting another", process.pid, process.returncode)
            self._processes[index] = self._start()
        return True

    def _end(self, sig: int) -> None:
        self._ending = True
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(sig)


def worker_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a worker that is told `arguments`."""
    return [sys.executable, "-m", "runtime", *arguments]
