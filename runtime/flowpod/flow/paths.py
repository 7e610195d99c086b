"""Checks of the paths that a flow names."""

import os
import stat
from pathlib import Path
from typing import Literal


def kind_of(path: Path) -> Literal["file", "folder"] | None:
    """Return what is at `path`; None also where the system rejects the path, for example as too long."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else None


def leads_out(path: str) -> bool:
    """Return whether a path leaves the flow's folder. Links may point anywhere: they belong to the flow."""
    return Path(path).is_absolute() or os.path.normpath(path).startswith("..")
