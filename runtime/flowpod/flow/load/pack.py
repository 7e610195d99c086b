"""What an image holds of a flow: its folder made whole, and the packages it asks for."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flowpod.errors import FlowProblems, InvalidRequest, Problem
from flowpod.flow.load.connections import FOLDER
from flowpod.flow.load.includes import FILE, assemble, includes_of

REQUIREMENTS = "requirements.txt"
STAND_INS = frozenset(
    ["langstudio", "promptflow", "promptflow-azure", "promptflow-core", "promptflow-devkit", "promptflow-tracing"]
)
"""Packages that are not installed for a flow, because Flowpod has the names that flows import from them."""

_INCLUDE = re.compile(r"(?:-r\s*|--requirement[\s=]+)(\S+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def pack(flow: Path, target: Path) -> list[str]:
    """Write the flow in the folder `flow` into `target/flow`, and its requirements into `target/requirements.txt`.

    The copy holds the files that the flow includes from elsewhere, and includes no more. A folder of connections beside
    the flow comes along. The requirements are those of `environment.python_requirements_txt`, or of `requirements.txt`,
    in one file; STAND_INS are left out. Returns what was left out. Raises FlowProblems when the flow or its
    requirements cannot be read, InvalidRequest when `target` is there already.
    """
    if target.exists():
        raise InvalidRequest(f"{target} is there already; name a folder that is not")
    content = _document(flow)
    named = content.get("environment")
    name = named.get("python_requirements_txt") if isinstance(named, Mapping) else None
    left_out: list[str] = []
    lines: list[str] = []
    if name is not None or (flow / REQUIREMENTS).is_file():
        for line in _lines(flow, str(name or REQUIREMENTS), frozenset()):
            stand_in = (found := _NAME.match(line)) and re.sub(r"[-_.]+", "-", found[0]).lower() in STAND_INS
            (left_out if stand_in else lines).append(line)
    copy = target / "flow"
    copy.mkdir(parents=True)
    assemble(flow, includes_of(flow), copy)
    if (flow.parent / FOLDER).is_dir():
        shutil.copytree(flow.parent / FOLDER, target / FOLDER)
    (copy / FILE).write_text(_without_includes((flow / FILE).read_text(encoding="utf-8")), encoding="utf-8")
    (target / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return left_out


def _document(flow: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load((flow / FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise FlowProblems([Problem(FILE, "", f"cannot be read: {error.strerror}")]) from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise FlowProblems([Problem(FILE, "", f"not valid YAML: {error}")]) from error
    return content if isinstance(content, Mapping) else {}


def _lines(flow: Path, name: str, seen: frozenset[str]) -> Iterator[str]:
    """Yield the requirements in the file `name`, and those of the files it names, without comments."""
    path = flow / name
    if not path.resolve().is_relative_to(flow.resolve()):
        raise FlowProblems(
            [Problem(name, "", "is outside of the flow's folder; requirements are packed from inside it")]
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FlowProblems([Problem(name, "", f"the flow's requirements cannot be read: {error}")]) from error
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if included := _INCLUDE.match(line):
            other = str(Path(name).parent / included[1])
            if other not in seen:
                yield from _lines(flow, other, seen | {name, other})
        elif line:
            yield line


def _without_includes(text: str) -> str:
    """Return a flow's text with nothing in `additional_includes`, every other line where it was."""
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value == "additional_includes":
                lines = text[key.end_mark.index : value.end_mark.index].count("\n")
                return f"{text[: key.end_mark.index]}: []" + "\n" * lines + text[value.end_mark.index :]
    return text
