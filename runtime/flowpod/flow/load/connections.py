"""Named services whose secrets come from the environment.

They are found in `connections.yaml`, a mapping of names, and in promptflow's files of one connection each, which lie in
the flow's folder and in a folder `connections` in it or beside it. A file or folder given from outside wins over them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flowpod.errors import Problem
from flowpod.flow.document.connections import PARTS, ConnectionPart, known_type
from flowpod.flow.document.located_yaml import NOT_A_MAPPING, NOT_TEXT, Key, Source, content_of
from flowpod.flow.model import Connection

FILE = "connections.yaml"
FOLDER = "connections"
OFFLINE = Connection("offline", "offline", {"model": "offline-extract"})
"""The built-in connection of every flow: answers from the prompt's own text, without a model."""

_SUFFIXES = (".yaml", ".yml")
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_PLACEHOLDER = re.compile(r"<[^<>]*>")
_NOT_SENT = ("type", "name", "schema_", "module", "fallback")


def load_connections(
    folder: Path, environ: Mapping[str, str], outside: Path | None = None
) -> tuple[dict[str, Connection], list[Problem]]:
    """Read the connections of the flow in `folder` and those in the file or folder `outside`, which win.

    Variables are filled in from `environ`. An unset one is kept with the connection as its problem: it matters only
    where a node uses it.
    """
    own = _Collection(environ)
    for path in _own_files(folder):
        own.read(Source(path, _shown(path, folder)))
    others = _Collection(environ)
    if outside is not None:
        for path in _outside_files(outside, others.problems):
            others.read(Source(path, str(path)))
    connections = {OFFLINE.name: OFFLINE, **own.connections, **others.connections}
    return connections, own.problems + others.problems


def _own_files(folder: Path) -> Iterator[Path]:
    if (folder / FILE).exists():
        yield folder / FILE
    yield from (path for path in _yaml_files(folder) if path.name != FILE and _is_one_connection(path))
    yield from _yaml_files(folder / FOLDER)
    yield from _yaml_files(folder.absolute().parent / FOLDER)


def _outside_files(outside: Path, problems: list[Problem]) -> list[Path]:
    if outside.is_dir():
        return _yaml_files(outside)
    if outside.is_file():
        return [outside]
    problems.append(Problem(str(outside), "", "there is no such file or folder of connections"))
    return []


def _yaml_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())


def _is_one_connection(path: Path) -> bool:
    """Whether a file of a flow's folder, which may hold anything, is a connection."""
    try:
        content = content_of(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError):
        return False
    return _has_name_and_type(content) and (
        known_type(content["type"]) is not None or "Connection" in str(content.get("$schema"))
    )


def _has_name_and_type(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(key), str) for key in ("name", "type"))


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


@dataclass
class _Collection:
    """Connections of several files, each name once."""

    environ: Mapping[str, str]
    connections: dict[str, Connection] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _places: dict[str, str] = field(default_factory=dict)

    def read(self, source: Source) -> None:
        """Add the connections of a file, and what is wrong with it."""
        for name, key, content in _named(source):
            if name in self._places:
                source.add(key, f"the connection {name!r} stands in {self._places[name]} too; leave one")
                continue
            self._places[name] = source.name
            if (part := _part(source, key, content)) is not None:
                self.connections[name] = _filled(name, part, self.environ)
        self.problems += source.problems


def _named(source: Source) -> list[tuple[str, Key, Any]]:
    """Return (name, where it stands, content) of each connection in a file."""
    if source.problems or source.content is None:
        return []
    if not isinstance(source.content, dict):
        source.add((), NOT_A_MAPPING)
        return []
    if _has_name_and_type(source.content):
        return [(source.content["name"], (), source.content)]
    for name in source.content:
        if not isinstance(name, str):
            source.add((str(name),), NOT_TEXT)
    return [(name, (name,), content) for name, content in source.content.items() if isinstance(name, str)]


def _part(source: Source, key: Key, content: Any) -> ConnectionPart | None:
    if not isinstance(content, dict):
        source.add(key, NOT_A_MAPPING)
        return None
    if "type" not in content:
        source.add((*key, "type"), "this key is required")
        return None
    kind = known_type(content["type"])
    if kind is None:
        source.add((*key, "type"), f"there is no type {content['type']!r}; there are {', '.join(PARTS)}")
        return None
    part = source.read(PARTS[kind], {**content, "type": kind}, key)
    if part is not None and part.fallback and part.fallback != OFFLINE.name:
        source.add((*key, "fallback"), f"the only fallback is {OFFLINE.name!r}")
    return part


def secret_values(connection: Connection) -> list[str]:
    """Return the values of a connection that nobody may see."""
    names = PARTS[connection.type].secret if connection.type in PARTS else frozenset[str]()
    values = [connection.fields[name] for name in sorted(names) if name in connection.fields]
    inner = [item for value in values for item in (value.values() if isinstance(value, dict) else (value,))]
    return [item for item in inner if isinstance(item, str)]


def _filled(name: str, part: ConnectionPart, environ: Mapping[str, str]) -> Connection:
    values = {field: getattr(part, field) for field in type(part).model_fields if field not in _NOT_SENT}
    kind = str(values.pop("type", getattr(part, "type", "")))
    filler = _Filler(environ)
    fields = {field: filler.fill(field, value, part.secret) for field, value in values.items()}
    if part.fallback and not any(environ.get(variable) for variable in filler.variables):
        return Connection(name, OFFLINE.type, OFFLINE.fields, fallback=OFFLINE.name)
    if kind in ("open_ai", "dashscope") and fields["base_url"] and "base_url" not in filler.defaulted:
        filler.wanting.pop("api_key", None)  # a server of one's own often asks for no key
    problems = tuple(
        f"connection {name!r}: {field}: {reason}" for field, reasons in filler.wanting.items() for reason in reasons
    )
    return Connection(name, kind, fields, problems)


@dataclass
class _Filler:
    """Puts variables into the texts of a connection; notes which are used, defaulted and wanting."""

    environ: Mapping[str, str]
    variables: set[str] = field(default_factory=set)
    defaulted: set[str] = field(default_factory=set)
    wanting: dict[str, list[str]] = field(default_factory=dict)

    def fill(self, name: str, value: Any, secret: frozenset[str]) -> Any:
        """Return the value of the field `name`; of a mapping, each of its texts is filled."""
        if isinstance(value, dict):
            inner = {key: f"{name}.{key}" for key in value}
            hidden = frozenset(inner.values()) if name in secret else frozenset[str]()
            return {key: self.fill(inner[key], text, hidden) for key, text in value.items()}
        if not isinstance(value, str):
            return value
        if name in secret and _PLACEHOLDER.fullmatch(value):
            self.wanting.setdefault(name, []).append(f"it is the placeholder {value!r}")
        return _VARIABLE.sub(lambda match: self._variable(name, match), value)

    def _variable(self, name: str, match: re.Match[str]) -> str:
        variable, default = match.groups()
        self.variables.add(variable)
        if value := self.environ.get(variable, "").strip():  # mounted secrets often end with a line break
            return value
        if default is None:
            self.wanting.setdefault(name, []).append(f"the environment variable {variable} is not set")
        else:
            self.defaulted.add(name)
        return default or ""
