"""Programs under measurement: started on a core of their own, and what the kernel says that they used."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.serving import ROOT

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STOP_S = 5


@dataclass(frozen=True)
class Cores:
    """Which core the server under test has, and which the mock model and the client share."""

    server: str
    others: str

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Take the first core for the server and the last one for the others."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(str(cores[0]), str(cores[-1]))

    @classmethod
    def shared(cls) -> "Cores":
        """Let the server and the others run on every core."""
        every = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        return cls(every, every)


def pinned(cores: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs `command`, and all that it starts, on some cores."""
    taskset = shutil.which("taskset")
    assert taskset, "taskset is not on PATH; it is in Debian's util-linux"
    return [taskset, "--cpu-list", cores, *command]


def free_port() -> int:
    """Return a port of the loopback address that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def raise_file_limit() -> None:
    """Allow this process, and all that it starts, as many open files as the system lets it have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def running(
    command: Sequence[str], cores: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["Tree"]:
    """Run a command on some cores until the block ends, its output in `log`; then end it and all that it started."""
    with log.open("w") as output:
        process = _start(pinned(cores, command), output, environment)
    try:
        yield Tree(process, log)
    finally:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        _signal(process, signal.SIGKILL)
        process.wait()


def _start(command: Sequence[str], output: IO[str], environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=output, text=True, start_new_session=True
    )


def _signal(process: subprocess.Popen[str], sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, sig)


@dataclass(frozen=True)
class Tree:
    """A running command and all that it started."""

    process: subprocess.Popen[str]
    log: Path

    def cpu_s(self) -> float:
        """Return the seconds of a core that it has used, those of children that have ended included."""
        return sum(map(_cpu_s, self._pids()))

    def cpu_s_of_children(self) -> dict[int, float]:
        """Return the same for each process that the command itself has started, by its process number."""
        return {pid: _cpu_s(pid) for pid in _children(self.process.pid)}

    def rss_bytes(self) -> int:
        """Return the resident memory of all of it; pages that processes share count in each."""
        texts = [_read(f"/proc/{pid}/statm") for pid in self._pids()]
        return sum(int(text.split()[1]) for text in texts if text) * _PAGE

    def memory_bytes(self) -> tuple[int, int]:
        """Return (PSS, USS): what it takes when shared pages are divided among the processes, and what is its alone."""
        rollups = [_read(f"/proc/{pid}/smaps_rollup") for pid in self._pids()]
        pss = sum(_kib(text, "Pss") for text in rollups)
        return pss * 1024, sum(_kib(text, "Private_Clean") + _kib(text, "Private_Dirty") for text in rollups) * 1024

    def check(self) -> None:
        """Raise an AssertionError, with the end of its output, when it has ended."""
        assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-3000:]}"

    def _pids(self) -> Iterator[int]:
        todo = [self.process.pid]
        while todo:
            pid = todo.pop()
            yield pid
            todo.extend(_children(pid))


def _children(pid: int) -> list[int]:
    tasks = _names(f"/proc/{pid}/task")
    return [int(child) for task in tasks for child in _read(f"/proc/{pid}/task/{task}/children").split()]


def _cpu_s(pid: int) -> float:
    # utime, stime, cutime and cstime are fields 14 to 17 (proc(5)); the name, field 2, may hold spaces.
    return sum(map(int, _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:15])) * _TICK_S


def _kib(rollup: str, name: str) -> int:
    found = re.search(rf"^{name}: +(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) if found else 0


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # names alone
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has just ended


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended
