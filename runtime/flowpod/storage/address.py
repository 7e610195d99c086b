"""Addresses of databases: what FLOWPOD_HISTORY may say, and where a SQLite file may lie."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from flowpod.errors import InvalidRequest

SslMode = Literal["disabled", "required", "verify_ca", "verify_identity"]
"""How far the server is trusted; the words are those of MySQL's own clients."""

_TLS_OPTIONS = ("ssl_mode", "ssl_ca", "ssl_cert", "ssl_key")
_CONNECT_TIMEOUT_S = 5
_MOUNTS = Path("/proc/self/mounts")
# SQLite's locks and its shared memory do not work across machines (sqlite.org, "WAL", section 1, and FAQ 5).
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "afs", "gpfs", "beegfs")
_NETWORK_FUSE = (
    "sshfs s3fs mount-s3 goofys ossfs ossfs2 aliyun-alinas-efc glusterfs ceph cephfs gcsfuse blobfuse blobfuse2 "
    "juicefs rclone"
).split()


@dataclass(frozen=True, slots=True)
class Address:
    """A database: its URL with the asyncio driver, and the driver's other arguments."""

    url: URL = field(repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of this machine."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path:
        """A SQLite database's file."""
        return Path(self.url.database or "")


def history_address(text: str, password: str | None = None) -> Address:
    """Return the database that `text` names; `password` wins over one in the text. A file's path is made absolute.

    Raises InvalidRequest for anything but `sqlite:///file` and `mysql://user@host/database?ssl_mode=...`.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is not None and url.drivername == "sqlite" and url.database and url.database != ":memory:" and not url.query:
        return sqlite_address(Path(url.database))
    if url is not None and url.drivername == "mysql" and url.host and url.database:
        options = {name: str(value) for name, value in url.query.items()}
        if unknown := sorted(options.keys() - set(_TLS_OPTIONS)):
            raise InvalidRequest(f"FLOWPOD_HISTORY: unknown {', '.join(unknown)}; there are {', '.join(_TLS_OPTIONS)}")
        url = url.set(drivername="mysql+aiomysql", query={"charset": "utf8mb4"})
        url = url if password is None else url.set(password=password)
        return Address(url, {"connect_timeout": _CONNECT_TIMEOUT_S, "ssl": _tls(options)})
    raise InvalidRequest(
        "FLOWPOD_HISTORY: expected sqlite:///path/to/file.db, mysql://user:password@host/database or off"
    )


def sqlite_address(file: Path) -> Address:
    """Return the SQLite database in `file`."""
    return Address(URL.create("sqlite+aiosqlite", database=str(file.absolute())))


def _tls(options: Mapping[str, str]) -> ssl.SSLContext | None:
    mode = options.get("ssl_mode", "verify_identity" if "ssl_ca" in options else "disabled")
    if mode not in get_args(SslMode):
        raise InvalidRequest(f"FLOWPOD_HISTORY: ssl_mode is one of {', '.join(get_args(SslMode))}, not {mode!r}")
    if mode == "disabled":
        if given := [name for name in _TLS_OPTIONS[1:] if name in options]:
            raise InvalidRequest(f"FLOWPOD_HISTORY: {', '.join(given)} without TLS; say ssl_mode=verify_identity")
        return None
    if "ssl_key" in options and "ssl_cert" not in options:
        raise InvalidRequest("FLOWPOD_HISTORY: ssl_key is the key of a certificate; name that too, with ssl_cert")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca"))
        if "ssl_cert" in options:
            context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(options[name] for name in _TLS_OPTIONS[1:] if name in options)
        raise InvalidRequest(f"FLOWPOD_HISTORY: {named} cannot be used: {error.strerror or error}") from error
    context.check_hostname = mode == "verify_identity"
    if mode == "required":
        context.verify_mode = ssl.CERT_NONE
    return context


def make_folder(path: Path) -> None:
    """Make the folder of a database file.

    Raises InvalidRequest when it cannot be made or written, or lies on a network file system.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the chat history's folder {path.parent} cannot be made: {error.strerror}") from error
    if path.is_dir():
        raise InvalidRequest(f"the chat history {path} is a folder; name a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidRequest(f"the chat history {path} cannot be written; set FLOWPOD_DATA_DIR or FLOWPOD_HISTORY")
    mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace") if _MOUNTS.exists() else ""
    if kind := network_file_system(path.parent.resolve(), mounts):
        raise InvalidRequest(
            f"the chat history {path} lies on a network file system ({kind}), where SQLite's locks do not hold and "
            "turns would be lost; keep it on a disk of this machine, or use MySQL (FLOWPOD_HISTORY=mysql://...)"
        )


def network_file_system(folder: Path, mounts: str) -> str:
    """Return the kind of network file system that `folder` lies on, or ""; `mounts` is Linux's table of mounts."""
    found, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, place, this_kind, *_ = [*line.split(), "", "", ""]
        point = Path(place.encode("latin-1", "replace").decode("unicode_escape"))  # \040 stands for a space
        if folder.is_relative_to(point) and len(point.parts) >= len(found.parts):
            found, kind = point, this_kind
    program = kind.lower().removeprefix("fuse.")
    return kind if kind in _NETWORK_FILE_SYSTEMS or (program != kind.lower() and program in _NETWORK_FUSE) else ""
