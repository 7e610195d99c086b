"""Worker processes that share one listening socket; a worker that ends is replaced."""

import logging
import signal
import socket
import subprocess
import time
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_QUICK_EXIT_S = 5.0
_MAX_QUICK_EXITS = 5


class Workers:
    """Runs `count` copies of a command, with the listening socket as `--fd`, until a signal stops them.

    A worker's standard input is a pipe from this process: it closes when this process dies, so the workers notice.
    """

    def __init__(self, command: Sequence[str], listener: socket.socket, count: int) -> None:
        self._command = [*command, "--fd", str(listener.fileno())]
        self._listener = listener
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started: dict[int, float] = {}
        self._quick_exits = 0
        self._signals: list[int] = []

    def run(self) -> int:
        """Run the workers until all have ended; return the exit status."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            # Handlers only record the signal: acting on it here could race with the start of a worker.
            signal.signal(sig, lambda number, _: self._signals.append(number))
        failed = False
        while not (self._signals or failed):
            if len(self._processes) < self._count:
                self._start()
                continue
            failed = not self._remove_ended()
            time.sleep(_POLL_S)
        return self._stop(failed)

    def _start(self) -> None:
        process = subprocess.Popen(  # noqa: S603 - our own command
            self._command, stdin=subprocess.PIPE, pass_fds=[self._listener.fileno()], start_new_session=True
        )
        self._processes.append(process)
        self._started[process.pid] = time.monotonic()
        logger.info("worker %d started", process.pid)

    def _remove_ended(self) -> bool:
        for process in [process for process in self._processes if process.poll() is not None]:
            self._processes.remove(process)
            lifetime = time.monotonic() - self._started.pop(process.pid)
            self._quick_exits = self._quick_exits + 1 if lifetime < _QUICK_EXIT_S else 0
            logger.warning("worker %d ended with status %d after %.1f s", process.pid, process.returncode, lifetime)
        if self._quick_exits >= _MAX_QUICK_EXITS:
            logger.error("%d workers in a row ended within seconds of their start; giving up", self._quick_exits)
            return False
        return True

    def _stop(self, failed: bool) -> int:
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
