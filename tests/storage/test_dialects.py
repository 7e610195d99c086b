"""What FLOWPOD_HISTORY accepts, and where a SQLite file may be."""

import asyncio
import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from flowpod.errors import InvalidRequest
from flowpod.storage.availability import FAILURES
from flowpod.storage.dialects import MySQL, SQLite, dialect_of
from flowpod.storage.dialects.sqlite_file import create_folder, network_file_system

MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
nas:/share /mnt/nas nfs4 rw 0 0
/dev/vdb /mnt/nas/disk xfs rw 0 0
ossfs /mnt/my\\040bucket fuse.ossfs rw 0 0
lxcfs /proc/cpuinfo fuse.lxcfs rw 0 0
"""


def mysql(url: str, password: str | None = None) -> MySQL:
    dialect = dialect_of(url, password)
    assert isinstance(dialect, MySQL)
    return dialect


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://h/d",
        "mysql://host",
        "mysql:///db",
        "nonsense",
        "mysql://h:x/d",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    expected = "FLOWPOD_HISTORY: expected sqlite:///path/to/file.db, mysql://user:password@host/database or off"
    with pytest.raises(InvalidRequest, match=expected):
        dialect_of(url)


def test_a_separate_password_takes_precedence_and_is_not_in_the_repr() -> None:
    dialect = mysql("mysql://user:old@host/db", "n/w@")

    assert dialect.password == "n/w@"
    assert dialect.url.password == "n/w@"
    assert "n/w@" not in repr(dialect)


@pytest.mark.parametrize(
    ("query", "checks_host", "verifies"),
    [
        ("?ssl_mode=required", False, ssl.CERT_NONE),
        ("?ssl_mode=verify_ca", False, ssl.CERT_REQUIRED),
        ("?ssl_mode=verify_identity", True, ssl.CERT_REQUIRED),
    ],
)
def test_the_mode_says_how_strictly_tls_verifies(query: str, checks_host: bool, verifies: ssl.VerifyMode) -> None:
    context = mysql(f"mysql://user@host/db{query}").tls

    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (checks_host, verifies)


def test_without_a_mode_there_is_no_tls() -> None:
    assert mysql("mysql://user@host/db").tls is None
    assert mysql("mysql://user@host/db?ssl_mode=disabled").tls is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?ssl_mode=on", "ssl_mode is one of disabled, required, verify_ca, verify_identity, not 'on'"),
        ("?ssl_ca=/nowhere/ca.pem", "/nowhere/ca.pem cannot be used: No such file"),
        ("?ssl_cert=/c.pem&ssl_key=/k.pem", "ssl_cert, ssl_key without TLS; add ssl_mode="),
        ("?ssl_mode=disabled&ssl_ca=/ca.pem", "ssl_ca without TLS"),
        ("?ssl_mode=required&ssl_key=/k.pem", "ssl_key needs its certificate"),
        ("?charset=latin1", "unknown option charset; the options are ssl_mode"),
    ],
)
def test_an_invalid_option_is_named(query: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        dialect_of(f"mysql://user@host/db{query}")


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=r"folder .*/file/x cannot be created"):
        create_folder(tmp_path / "file" / "x" / "h.db")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is a folder; name a file in it"):
        create_folder(tmp_path)


async def test_a_path_may_have_characters_that_mean_something_in_a_url(tmp_path: Path) -> None:
    folder = tmp_path / "we?ird #dir"
    reader, writer = SQLite(folder / "h.db").create_engines()
    async with writer.connect():
        assert {file.name for file in folder.iterdir()} == {"h.db", "h.db-wal", "h.db-shm"}
    await reader.dispose()
    await writer.dispose()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data", ""),
        ("/mnt/nas/flow", "nfs4"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nasty", ""),
        ("/mnt/nas/disk/flow", ""),
        ("/mnt/my bucket/x", "fuse.ossfs"),
    ],
)
def test_network_file_systems_are_recognised(folder: str, kind: str) -> None:
    assert network_file_system(Path(folder), MOUNTS) == kind
    assert network_file_system(Path(folder), "") == ""


def test_a_server_that_closes_new_connections_is_unavailable() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def reset_each() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    async def connect(engine: AsyncEngine) -> None:
        with pytest.raises(FAILURES):
            async with engine.connect():
                pass

    async def connect_often() -> None:
        engine, _ = dialect_of(f"mysql://user:password@127.0.0.1:{listener.getsockname()[1]}/database").create_engines()
        for _ in range(100):
            await asyncio.gather(*(connect(engine) for _ in range(8)))

    threading.Thread(target=reset_each, daemon=True).start()
    uvloop.run(connect_often())
    listener.close()
