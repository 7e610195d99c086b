"""`additional_includes`: files and folders from elsewhere, which a copy of the flow's folder gets beside its own."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from flowpod.flow.document.located_yaml import content_of
from flowpod.flow.paths import kind_of

FILE = "flow.dag.yaml"
_IGNORED = shutil.ignore_patterns("__pycache__", ".git", ".venv")


def includes_of(flow: Path) -> list[str]:
    """Return the includes of the flow in the folder `flow`; none if its file cannot be read."""
    try:
        content = content_of((flow / FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return []
    found = content.get("additional_includes") if isinstance(content, dict) else None
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def assemble(flow: Path, includes: Iterable[str], target: Path) -> None:
    """Copy the folder `flow` and its includes, which win and may be missing, into `target`; raises OSError."""
    _copy(flow, target)
    for path in (flow / text for text in includes):
        match kind_of(path):
            case "folder":
                _copy(path, target / path.resolve().name)
            case "file":
                shutil.copy2(path, target / path.resolve().name)


def _copy(folder: Path, target: Path) -> None:
    shutil.copytree(folder, target, ignore=_IGNORED, ignore_dangling_symlinks=True, dirs_exist_ok=True)
