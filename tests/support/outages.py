"""Databases that stop accepting writes, for real: a disk that is full, a server that is read-only, a file that is locked."""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.mariadb import MariaDB
from tests.support.needs import do_without

_BLOCK = bytes(4096)


class Outage(Protocol):
    """A database that the test can make refuse writes."""

    url: str

    def begin(self) -> None:
        """Refuse writes from now on."""

    def end(self) -> None:
        """Accept writes again."""


class FullDisk:
    """SQLite on a disk of its own, which other files fill."""

    def __init__(self, mount: Path) -> None:
        self.url = f"sqlite:///{mount / 'data' / 'chat_history.db'}"
        self._filler = mount / "filler"

    def begin(self) -> None:
        """Fill the disk to the last block."""
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(_BLOCK)

    def end(self) -> None:
        """Make room."""
        self._filler.unlink()


class ReadOnlyServer:
    """A MariaDB server that answers reads and refuses writes, as a replica does after a failover."""

    def __init__(self, server: MariaDB, url: str) -> None:
        self.url = url
        self._server = server

    def begin(self) -> None:
        """Make the server read-only."""
        self._server.execute("SET GLOBAL read_only = ON")

    def end(self) -> None:
        """Make it writable."""
        self._server.execute("SET GLOBAL read_only = OFF")


class LockedFile:
    """An SQLite file that another process has locked for writing."""

    def __init__(self, file: Path) -> None:
        self.url = f"sqlite:///{file}"
        self._file = file
        self._lock: sqlite3.Connection | None = None

    def begin(self) -> None:
        """Take the lock."""
        self._lock = sqlite3.connect(self._file, isolation_level=None, timeout=30)
        self._lock.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        """Release the lock."""
        assert self._lock is not None
        self._lock.execute("ROLLBACK")
        self._lock.close()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount an empty disk of 8 MiB."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        do_without(f"cannot mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(params=["full disk", pytest.param("read-only server", marks=pytest.mark.needs("mariadbd"))])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    """A database that answers reads and can be made to refuse writes, of each kind one after the other."""
    if request.param == "full disk":
        with small_disk(tmp_path / "disk") as disk:
            yield FullDisk(disk)
    else:
        server: MariaDB = request.getfixturevalue("mariadb")
        refusing = ReadOnlyServer(server, request.getfixturevalue("mysql_url"))
        try:
            yield refusing
        finally:
            refusing.end()
