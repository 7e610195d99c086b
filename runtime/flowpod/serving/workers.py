"""Worker processes that serve one address; a worker that ends is replaced after a delay."""

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_MIN_DELAY_S = 0.1
_MAX_DELAY_S = 30.0
_STABLE_S = 30.0
_STDIN = 0
_SIGNAL_NAMES = {int(sig): sig.name for sig in signal.Signals}
_STOPPED = {0, 128 + signal.SIGINT, -signal.SIGINT, -signal.SIGTERM}  # the last three while it was still starting


class Workers:
    """Runs `count` copies of a command, each with a socket of its own as `--fd`, until a signal stops them.

    The sockets have the address of `bound`, which never listens itself. The kernel distributes new connections evenly
    among the workers that listen.

    A worker's standard input is a socket to this process. The worker writes to it when it is ready (`report_ready`),
    and reads from it that this process has died (`stop_with_supervisor`).
    """

    # uvicorn's own supervisor replaces a dead worker at once, for ever; it ends all workers when one cannot start, does
    # not forward a second signal, which skips the grace period, and leaves workers behind when it is killed.

    # With one listening socket for all, the first worker to wake up takes a whole burst of connections: of 16 that
    # are kept open, one worker then does up to 99 % of the work (tests/bench/workers.py).

    def __init__(self, command: Sequence[str], bound: socket.socket, count: int) -> None:
        # Set after it was bound, so that an address that another program has was refused. Without SO_REUSEADDR no
        # other program gets this one while no worker listens.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self._slots = [_Slot(command, bound) for _ in range(count)]
        self._signals: list[int] = []

    def run(self) -> int:
        """Run the workers until all have ended; return the exit status.

        It is 1 if no worker could start: a flow that cannot be served is the platform's to report and restart.
        """
        for sig in (signal.SIGTERM, signal.SIGINT):
            # Handlers only record the signal: acting on it here could race with the start of a worker.
            signal.signal(sig, lambda number, _: self._signals.append(number))
        while not self._signals:
            for slot in self._slots:
                slot.advance()
            if all(slot.deaths and not slot.ever_ready for slot in self._slots):
                logger.error("no worker could start; the lines above say why")
                return 1
            time.sleep(_POLL_S)
        return self._stop()

    def _stop(self) -> int:
        sent = 0
        while any(slot.is_running for slot in self._slots):
            new, sent = self._signals[sent:], len(self._signals)
            for slot in self._slots:
                slot.send(new)
            time.sleep(_POLL_S)
        return 0 if all(slot.exit_status in _STOPPED for slot in self._slots) else 1


class _Slot:
    """The place of one worker: its process and, when that has ended, the time to start the next."""

    def __init__(self, command: Sequence[str], bound: socket.socket) -> None:
        self._command = command
        self._bound = bound
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._ready = False
        self._started = 0.0
        self._start_at = 0.0
        self._delay = _MIN_DELAY_S
        self.exit_status = 0
        self.deaths = 0
        self.ever_ready = False

    @property
    def is_running(self) -> bool:
        if self._process is None:
            return False
        status = self._process.poll()
        if status is not None:
            self.exit_status = status
        return status is None

    def send(self, signals: Sequence[int]) -> None:
        if self._process is not None:
            for sig in signals:
                self._process.send_signal(sig)

    def advance(self) -> None:
        """Start the process if it is time to, or note that it is ready or has ended."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return
        assert self._link is not None
        running = self.is_running  # before the link is read, so that the last byte of a process that has ended counts
        if not self._ready and _has_byte(self._link):
            self._ready = self.ever_ready = True
        if not running:
            self._note_end(f"worker {self._process.pid} {self._reason()}")
            self._process = None
            self._link.close()

    def _start(self) -> None:
        self._started, self._ready = time.monotonic(), False
        self._link, stdin = socket.socketpair()
        with stdin, _bound_again(self._bound) as own:
            fd = own.fileno()
            command = [*self._command, "--fd", str(fd)]
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own command
                    command, stdin=stdin.fileno(), pass_fds=[fd], start_new_session=True
                )
            except OSError as error:
                self._link.close()
                self._note_end(f"no worker could be started ({error})")
                return
        logger.info("worker %d started", self._process.pid)

    def _reason(self) -> str:
        status = self.exit_status
        how = f"ended with status {status}" if status >= 0 else f"was killed by {_SIGNAL_NAMES.get(-status, -status)}"
        return f"{how} after {time.monotonic() - self._started:.1f} s{'' if self._ready else ', before it was ready'}"

    def _note_end(self, text: str) -> None:
        now = time.monotonic()
        if now - self._started >= _STABLE_S:
            self._delay = _MIN_DELAY_S
        self.deaths += 1
        self._start_at = now + self._delay
        logger.warning("%s; the next one starts in %g s", text, self._delay)
        self._delay = min(2 * self._delay, _MAX_DELAY_S)


def _bound_again(bound: socket.socket) -> socket.socket:
    """Return another socket with the same address."""
    own = socket.socket(bound.family, bound.type, bound.proto)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind(bound.getsockname())
    return own


def _has_byte(link: socket.socket) -> bool:
    try:
        return bool(link.recv(1, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def report_ready() -> None:
    """In a worker: tell the supervisor that this process serves requests."""
    os.write(_STDIN, b"r")


def stop_with_supervisor() -> None:
    """In a worker: send this process SIGTERM when its supervisor exits."""

    def watch() -> None:
        # Not sys.stdin: a thread that holds its lock makes the interpreter abort when the process exits.
        while os.read(_STDIN, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="flowpod-supervisor", daemon=True).start()
