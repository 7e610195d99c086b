"""Paths that a flow names."""

import os
import stat
from pathlib import Path
from typing import Literal


def kind_of(path: Path) -> Literal["file", "folder"] | None:
    """Return what there is at `path`: nothing where the system refuses it, because it is too long for one."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else None


def leads_out(path: str) -> bool:
    """Return whether a path leaves the flow's folder; a link in it may point anywhere, it belongs to the flow."""
    return Path(path).is_absolute() or os.path.normpath(path).startswith("..")
