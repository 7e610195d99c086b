"""Packing a flow for an image: its folder with all includes, and its requirements."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flowpod.compat.stand_ins import DISTRIBUTIONS
from flowpod.errors import FlowProblems, InvalidRequest, Problem
from flowpod.flow.load.connections import FOLDER
from flowpod.flow.load.includes import FILE, assemble, includes_of

REQUIREMENTS = "requirements.txt"

_INCLUDE = re.compile(r"(?:-r\s*|--requirement[\s=]+)(\S+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def pack(flow: Path, target: Path) -> list[str]:
    """Write the flow in the folder `flow` into `target/flow`, and its requirements into `target/requirements.txt`.

    The copy contains the files that the flow includes, and its `additional_includes` are empty. A folder `connections`
    beside the flow is copied too. The requirements are those of `environment.python_requirements_txt`, or else of
    `requirements.txt`, in one file. Packages that Flowpod stands in for are omitted. Returns the omitted requirements.
    Raises FlowProblems when the flow or its requirements cannot be read, InvalidRequest when `target` exists.
    """
    if target.exists():
        raise InvalidRequest(f"{target} already exists; name a folder that does not")
    content = _document(flow)
    named = content.get("environment")
    name = named.get("python_requirements_txt") if isinstance(named, Mapping) else None
    omitted: list[str] = []
    lines: list[str] = []
    if name is not None or (flow / REQUIREMENTS).is_file():
        for line in _lines(flow, str(name or REQUIREMENTS), set()):
            package = _NAME.match(line)
            stand_in = package and re.sub(r"[-_.]+", "-", package[0]).lower() in DISTRIBUTIONS
            (omitted if stand_in else lines).append(line)
    copy = target / "flow"
    copy.mkdir(parents=True)
    assemble(flow, includes_of(flow), copy)
    if (flow.parent / FOLDER).is_dir():
        shutil.copytree(flow.parent / FOLDER, target / FOLDER)
    (copy / FILE).write_text(_without_includes((flow / FILE).read_text(encoding="utf-8")), encoding="utf-8")
    (target / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return omitted


def _document(flow: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load((flow / FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise FlowProblems([Problem(FILE, "", f"cannot be read: {error.strerror}")]) from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise FlowProblems([Problem(FILE, "", f"not valid YAML: {error}")]) from error
    return content if isinstance(content, Mapping) else {}


def _lines(flow: Path, name: str, seen: set[str]) -> Iterator[str]:
    """Yield the requirements in the file `name` and in the files it includes, without comments; each file once."""
    seen.add(name)
    path = flow / name
    if not path.resolve().is_relative_to(flow.resolve()):
        raise FlowProblems([Problem(name, "", "is outside the flow's folder; move the requirements into it")])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FlowProblems([Problem(name, "", f"the requirements cannot be read: {error}")]) from error
    for line in " ".join(part.strip() for part in text.split("\\\n")).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if included := _INCLUDE.match(line):
            other = str(Path(name).parent / included[1])
            if other not in seen:
                yield from _lines(flow, other, seen)
        elif line:
            yield line


def _without_includes(text: str) -> str:
    """Return a flow's text with empty `additional_includes`; every other line keeps its number."""
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value == "additional_includes":
                lines = text[key.end_mark.index : value.end_mark.index].count("\n")
                return f"{text[: key.end_mark.index]}: []" + "\n" * lines + text[value.end_mark.index :]
    return text
