"""A MariaDB server of the tests' own, in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql

START_TIMEOUT_S = 60
USER, PASSWORD = "flowpod", "p@ss/w:rd"


class MariaDB:
    """The server; it can be stopped and started again with its data."""

    def __init__(self, folder: Path, *server_options: str) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        # The server refuses to run as root unless it is told to.
        self._user = [f"--user={pwd.getpwuid(os.getuid()).pw_name}"]
        install = [shutil.which("mariadb-install-db") or "mariadb-install-db", "--no-defaults"]
        options = [f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        self._options = [*self._user, "--innodb-use-native-aio=0", f"--tmpdir={folder}"]
        self._server_options = server_options
        done = subprocess.run([*install, *options, *self._options], capture_output=True, text=True)
        if done.returncode:  # several servers that start at once can be short of memory for a moment
            shutil.rmtree(folder / "data", ignore_errors=True)
            done = subprocess.run([*install, *options, *self._options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        command = [shutil.which("mariadbd") or "mariadbd", "--no-defaults", f"--datadir={self._folder / 'data'}"]
        options = [f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self._folder / 's'}"]
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [*command, *options, *self._options, *self._server_options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                # A plain connection: PyMySQL leaves its socket open when it is refused.
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def execute(self, *statements: str) -> None:
        """Execute statements as the server's administrator."""
        with (
            pymysql.connect(unix_socket=str(self._folder / "s"), user="root") as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    def new_database(self, name: str) -> str:
        """Create an empty database and return its address for FLOWPOD_HISTORY."""
        self.execute(
            f"CREATE DATABASE {name}",
            f"CREATE USER IF NOT EXISTS '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT ALL ON {name}.* TO '{USER}'@'127.0.0.1'",
        )
        return f"mysql://{USER}:p%40ss%2Fw%3Ard@127.0.0.1:{self.port}/{name}"


@contextmanager
def running_mariadb(folder: Path, *options: str) -> Iterator[MariaDB]:
    server = MariaDB(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
