"""`additional_includes`: files and folders from outside a flow's folder, laid beside its own in a copy.

The flow's folder is only read.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from flowpod.flow.document.located_yaml import content_of
from flowpod.flow.paths import kind_of

FILE = "flow.dag.yaml"
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", ".git", ".venv")


def includes_of(flow: Path) -> list[str]:
    """Return what the flow in the folder `flow` includes; nothing when its file cannot be read."""
    try:
        content = content_of((flow / FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return []
    found = content.get("additional_includes") if isinstance(content, dict) else None
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def assemble(flow: Path, includes: Iterable[str], target: Path) -> None:
    """Copy the folder `flow` and what it includes into `target`; an included file wins over one of the flow's own.

    What does not exist is left out. Raises OSError for what cannot be copied.
    """
    _copy(flow, target)
    for path in (flow / text for text in includes):
        match kind_of(path):
            case "folder":
                _copy(path, target / path.resolve().name)
            case "file":
                shutil.copy2(path, target / path.resolve().name)


def missing_includes(flow: Path, includes: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the place and the text of each include that does not exist."""
    yield from ((index, text) for index, text in enumerate(includes) if kind_of(flow / text) is None)


def _copy(folder: Path, target: Path) -> None:
    shutil.copytree(folder, target, ignore=_LEFT_BEHIND, ignore_dangling_symlinks=True, dirs_exist_ok=True)
