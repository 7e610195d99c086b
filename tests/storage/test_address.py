"""What FLOWPOD_HISTORY may say, and where a SQLite file may lie."""

import ssl
from pathlib import Path

import pytest
from flowpod.errors import InvalidRequest
from flowpod.storage.address import history_address, make_folder, network_file_system, sqlite_address

MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
nas:/share /mnt/nas nfs4 rw 0 0
/dev/vdb /mnt/nas/disk xfs rw 0 0
ossfs /mnt/my\\040bucket fuse.ossfs rw 0 0
lxcfs /proc/cpuinfo fuse.lxcfs rw 0 0
"""


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
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="FLOWPOD_HISTORY: expected sqlite:///path"):
        history_address(url)


def test_a_password_of_its_own_wins_and_is_never_shown() -> None:
    address = history_address("mysql://user:old@host/db", "n/w@")

    assert address.url.password == "n/w@"
    assert "n/w@" not in repr(address)


@pytest.mark.parametrize(
    ("query", "checks_host", "verifies"),
    [
        ("?ssl_mode=required", False, ssl.CERT_NONE),
        ("?ssl_mode=verify_ca", False, ssl.CERT_REQUIRED),
        ("?ssl_mode=verify_identity", True, ssl.CERT_REQUIRED),
    ],
)
def test_tls_is_as_strict_as_its_mode_says(query: str, checks_host: bool, verifies: ssl.VerifyMode) -> None:
    context = history_address(f"mysql://user@host/db{query}").arguments["ssl"]

    assert (context.check_hostname, context.verify_mode) == (checks_host, verifies)


def test_without_a_mode_there_is_no_tls() -> None:
    assert history_address("mysql://user@host/db").arguments["ssl"] is None
    assert history_address("mysql://user@host/db?ssl_mode=disabled").arguments["ssl"] is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?ssl_mode=on", "ssl_mode is one of disabled, required, verify_ca, verify_identity, not 'on'"),
        ("?ssl_ca=/nowhere/ca.pem", "/nowhere/ca.pem cannot be used: No such file"),
        ("?ssl_cert=/c.pem&ssl_key=/k.pem", "ssl_cert, ssl_key without TLS; say ssl_mode="),
        ("?ssl_mode=disabled&ssl_ca=/ca.pem", "ssl_ca without TLS"),
        ("?ssl_mode=required&ssl_key=/k.pem", "ssl_key is the key of a certificate"),
        ("?charset=latin1", "unknown charset; there are ssl_mode"),
    ],
)
def test_options_that_are_wrong_are_named(query: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        history_address(f"mysql://user@host/db{query}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=r"folder .*/file/x cannot be made"):
        make_folder(tmp_path / "file" / "x" / "h.db")


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is a folder; name a file in it"):
        make_folder(tmp_path)


def test_a_path_of_odd_characters_is_a_path(tmp_path: Path) -> None:
    assert sqlite_address(tmp_path / "we?ird #dir" / "h.db").file == tmp_path / "we?ird #dir" / "h.db"


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
def test_network_file_systems_are_known(folder: str, kind: str) -> None:
    assert network_file_system(Path(folder), MOUNTS) == kind
    assert network_file_system(Path(folder), "") == ""
