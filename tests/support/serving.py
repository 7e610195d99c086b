"""Servers on real sockets, in a thread of the test's process or as the command that users run."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (sys.executable, "-m", "flowpod")
START_TIMEOUT_S = 30
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")


@contextmanager
def in_thread(app: ASGIApp) -> Iterator[str]:
    """Serve `app` until the block ends; yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, log_config=None, log_level="critical", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        assert thread.is_alive(), "the server ended before it had started"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


class Served:
    """`flowpod serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    @property
    def log(self) -> str:
        time.sleep(0.05)  # the server writes its lines at the end of a turn of its event loop, after it has answered
        return self._log.read_text()

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout)


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    """Return an environment with these settings alone, and data in `tmp_path`."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return (
        kept
        | {"FLOWPOD_DATA_DIR": str(tmp_path / "data"), "FLOWPOD_DRAIN_DELAY_S": "0", "FLOWPOD_LOG_FORMAT": "text"}
        | settings
    )


@contextmanager
def serving(
    flow: Path, tmp_path: Path, *options: str, program: Sequence[str] = PROGRAM, **settings: str
) -> Iterator[Served]:
    """Run `flowpod serve` on a free port until the block ends."""
    with start_server(flow, tmp_path, *options, program=program, **settings) as served:
        wait_until_ready(served)
        yield served


@contextmanager
def start_server(
    flow: Path, tmp_path: Path, *options: str, program: Sequence[str] = PROGRAM, **settings: str
) -> Iterator[Served]:
    """Run `flowpod serve`, or that of another `program`, on a free port, ready or not."""
    log = tmp_path / "serve.log"
    command = [*program, "serve", str(flow), "--port", "0", *options]
    with log.open("a") as output:
        start = output.tell()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(tmp_path, **settings), stderr=output, stdout=output, text=True
        )
    try:
        yield Served(process, _address(process, log, start), log)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[str], log: Path, start: int) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if found := re.search(r"on (http://[\w.:]+)", log.read_text()[start:]):
            return found[1]
        assert process.poll() is None, f"the server ended:\n{log.read_text()}"
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def wait_until_ready(served: Served) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{served.url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the server is not ready:\n{served.log}")


def run_command(
    *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `flowpod` to its end."""
    return subprocess.run([*PROGRAM, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def turns(tmp_path: Path, service: str = "flow") -> list[str]:
    """Return the statuses of all stored turns."""
    database = sqlite3.connect(tmp_path / "data" / "chat_history.db")
    rows = database.execute(f"SELECT status FROM langstudio_chat_history_{service} ORDER BY id").fetchall()
    database.close()
    return [row[0] for row in rows]


def wait_for_turns(tmp_path: Path, expected: list[str]) -> None:
    deadline = time.monotonic() + 10
    while turns(tmp_path) != expected:
        assert time.monotonic() < deadline, turns(tmp_path)
        time.sleep(0.02)


def wait_for_status(served: Served, path: str, status: int) -> None:
    deadline = time.monotonic() + 10
    while httpx.get(f"{served.url}{path}").status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_refused(served: Served) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{served.url}/healthz")
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            pass  # it was accepted by a server that is ending
        time.sleep(0.02)
    raise AssertionError("the server still listens")


def wait_for_workers(served: Served, count: int) -> None:
    deadline = time.monotonic() + 20
    while served.log.count("serving flow") < count:
        assert time.monotonic() < deadline, served.log
        time.sleep(0.05)
