"""The file of a SQLite database: where it may be, how connections to it are set up, and whether it is still there."""

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowpod.errors import InvalidRequest

logger = logging.getLogger(__name__)

FileId = tuple[int, int]
"""The device of a file and its number there."""
FileIds = Mapping[Path, FileId | None]
"""The id of each file, or None for one that does not exist."""

_BUSY_TIMEOUT_MS = 5000
_MOUNTS = Path("/proc/self/mounts")
# SQLite's locks and its shared memory do not work across machines (sqlite.org, "WAL", section 1, and FAQ 5).
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "afs", "gpfs", "beegfs")
_NETWORK_FUSE = (
    "sshfs s3fs mount-s3 goofys ossfs ossfs2 aliyun-alinas-efc glusterfs ceph cephfs gcsfuse blobfuse blobfuse2 "
    "juicefs rclone"
).split()


class SQLiteFile:
    """The file at `path`, with the log and the log's index that SQLite keeps beside it. Any thread may use it.

    A deleted file would accept statements until its last connection is closed, and SQLite would apply the log of a
    replaced file to the new one. So a connection calls `prepare_opening` before it is opened, keeps what `opened`
    returns, and is closed when `is_lost` says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = [path.with_name(f"{path.name}-{end}") for end in ("wal", "shm")]
        self._last_opened: FileIds | None = None
        self._lost: FileId | None = None
        self._lock = threading.Lock()

    def prepare_opening(self) -> None:
        """Remove the log of a file that other connections still have open and that has been replaced since."""
        if (last := self._last_opened) is not None:
            self.is_lost(last)

    def opened(self) -> FileIds:
        """Return the ids of the files that a connection has just opened."""
        self._last_opened = ids = {file: _file_id(file) for file in (self.path, *self.logs)}
        return ids

    def is_lost(self, opened: FileIds) -> bool:
        """Return whether the file has been deleted or replaced since a connection opened it; it takes 2 µs."""
        before, now = opened[self.path], _file_id(self.path)
        if before == now:
            return False
        with self._lock:  # otherwise the log of a connection that another thread opens meanwhile could be removed
            if before != self._lost:
                self._lost, self._last_opened = before, None
                what = "deleted" if now is None else "replaced"
                logger.error("the chat history %s was %s while it was in use; opening it again", self.path, what)
            for log in self.logs:
                if opened[log] is not None and opened[log] == _file_id(log):
                    log.unlink(missing_ok=True)
        return True


def configure_connection(connection: Any) -> None:
    """Set up a connection of sqlite3, or of SQLAlchemy's adapter of aiosqlite; close it if that fails."""
    connection.isolation_level = None  # the driver begins no transactions
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone() != ("wal",):  # the switch locks the whole file, and fails while another process uses it
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA schema_version")  # creates the log, whose number is then remembered
        cursor.close()
    except BaseException:  # also a cancelled task
        connection.close()  # otherwise its thread would keep the process from exiting
        raise


def _file_id(file: Path) -> FileId | None:
    """Return a file's device and its number there, or None if the file does not exist."""
    try:
        status = os.stat(file)  # noqa: PTH116 - half the time of Path.stat, and done for every transaction
    except OSError:
        return None
    return status.st_dev, status.st_ino


def create_folder(file: Path) -> None:
    """Create the folder of a database file.

    Raises InvalidRequest when it cannot be created or written, or is on a network file system.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the chat history's folder {file.parent} cannot be created: {error.strerror}") from error
    if file.is_dir():
        raise InvalidRequest(f"the chat history {file} is a folder; name a file in it")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InvalidRequest(f"the chat history {file} cannot be written; set FLOWPOD_DATA_DIR or FLOWPOD_HISTORY")
    mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace") if _MOUNTS.exists() else ""
    if kind := network_file_system(file.parent.resolve(), mounts):
        raise InvalidRequest(
            f"the chat history {file} is on a network file system ({kind}), where SQLite's locks do not work and "
            "turns would be lost; keep it on a disk of this machine, or use MySQL (FLOWPOD_HISTORY=mysql://...)"
        )


def network_file_system(folder: Path, mounts: str) -> str:
    """Return the kind of network file system that `folder` is on, or ""; `mounts` is Linux's table of mounts."""
    nearest, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, target, this_kind, *_ = [*line.split(), "", "", ""]
        point = Path(target.encode("latin-1", "replace").decode("unicode_escape"))  # \040 stands for a space
        if folder.is_relative_to(point) and len(point.parts) >= len(nearest.parts):
            nearest, kind = point, this_kind
    program = kind.lower().removeprefix("fuse.")
    return kind if kind in _NETWORK_FILE_SYSTEMS or (program != kind.lower() and program in _NETWORK_FUSE) else ""
