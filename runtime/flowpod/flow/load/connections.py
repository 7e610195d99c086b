"""Loading connections: named services whose secrets come from the environment.

A flow's own connections are in `connections.yaml`, a mapping of names, and in promptflow's files of one connection
each: in the flow's folder, and in a folder `connections` inside or beside it. A file or folder that the setting
FLOWPOD_CONNECTIONS names takes precedence.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flowpod.errors import Problem
from flowpod.flow.document.connections import CONNECTION_TYPES, ConnectionDocument, known_type
from flowpod.flow.document.located_yaml import NOT_A_MAPPING, NOT_TEXT, Key, Source, content_of
from flowpod.flow.model import Connection

FILE = "connections.yaml"
FOLDER = "connections"
OFFLINE = Connection("offline", "offline", {"model": "offline-extract"})
"""Every flow's built-in connection, which answers from the prompt's own text, without a model."""

_SUFFIXES = (".yaml", ".yml")
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_PLACEHOLDER = re.compile(r"<[^<>]*>")
_NOT_FIELDS = ("type", "name", "schema_", "module", "fallback")


def load_connections(
    folder: Path, environ: Mapping[str, str], configured: Path | None = None
) -> tuple[dict[str, Connection], list[Problem]]:
    """Return the connections of the flow in `folder` and of the file or folder `configured`, which take precedence.

    Variables are replaced from `environ`. An unset one is a problem of its connection, which matters only if a node
    uses that connection. The second result is the problems of the files.
    """
    own = _Collection(environ)
    for path in _own_files(folder):
        own.read(Source(path, str(path.relative_to(folder) if path.is_relative_to(folder) else path)))
    preferred = _Collection(environ)
    if configured is not None:
        for path in _configured_files(configured, preferred.problems):
            preferred.read(Source(path, str(path)))
    connections = {OFFLINE.name: OFFLINE, **own.connections, **preferred.connections}
    return connections, own.problems + preferred.problems


def _own_files(folder: Path) -> Iterator[Path]:
    if (folder / FILE).exists():
        yield folder / FILE
    yield from (path for path in _yaml_files(folder) if path.name != FILE and _is_one_connection(path))
    yield from _yaml_files(folder / FOLDER)
    yield from _yaml_files(folder.absolute().parent / FOLDER)


def _configured_files(path: Path, problems: list[Problem]) -> list[Path]:
    if path.is_dir():
        return _yaml_files(path)
    if path.is_file():
        return [path]
    problems.append(Problem(str(path), "", "the file or folder of FLOWPOD_CONNECTIONS does not exist"))
    return []


def _yaml_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())


def _is_one_connection(path: Path) -> bool:
    """Return whether a YAML file in a flow's folder is a connection, and not some other document."""
    try:
        content = content_of(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError):
        return False
    return _has_name_and_type(content) and (
        known_type(content["type"]) is not None or "Connection" in str(content.get("$schema"))
    )


def _has_name_and_type(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(key), str) for key in ("name", "type"))


@dataclass
class _Collection:
    """The connections of several files; a name may be defined once."""

    environ: Mapping[str, str]
    connections: dict[str, Connection] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _defined_in: dict[str, str] = field(default_factory=dict)

    def read(self, source: Source) -> None:
        for name, key, content in _named(source):
            if name in self._defined_in:
                text = f"the connection {name!r} is also defined in {self._defined_in[name]}; remove one of the two"
                source.add(key, text)
                continue
            self._defined_in[name] = source.name
            if (document := _document(source, key, content)) is not None:
                self.connections[name] = _connection(name, document, self.environ)
        self.problems += source.problems


def _named(source: Source) -> list[tuple[str, Key, Any]]:
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


def _document(source: Source, key: Key, content: Any) -> ConnectionDocument | None:
    if not isinstance(content, dict):
        source.add(key, NOT_A_MAPPING)
        return None
    if "type" not in content:
        source.add((*key, "type"), "this key is required")
        return None
    kind = known_type(content["type"])
    if kind is None:
        source.add((*key, "type"), f"unknown type {content['type']!r}; the types are {', '.join(CONNECTION_TYPES)}")
        return None
    document = source.read(CONNECTION_TYPES[kind], {**content, "type": kind}, key)
    if document is not None and document.fallback and document.fallback != OFFLINE.name:
        source.add((*key, "fallback"), f"the only fallback is {OFFLINE.name!r}")
    return document


def secret_values(connection: Connection) -> list[str]:
    """Return the values of a connection that must not be shown."""
    document = CONNECTION_TYPES.get(connection.type)
    names = sorted(document.secret if document else ())
    values = [connection.fields[name] for name in names if name in connection.fields]
    texts = [text for value in values for text in (value.values() if isinstance(value, dict) else (value,))]
    return [text for text in texts if isinstance(text, str)]


def _connection(name: str, document: ConnectionDocument, environ: Mapping[str, str]) -> Connection:
    values = {field: getattr(document, field) for field in type(document).model_fields if field not in _NOT_FIELDS}
    kind = str(getattr(document, "type", ""))
    substitution = _Substitution(environ)
    fields = {field: substitution.apply(field, value, document.secret) for field, value in values.items()}
    if document.fallback and not any(environ.get(variable) for variable in substitution.variables):
        return Connection(name, OFFLINE.type, OFFLINE.fields, fallback=OFFLINE.name)
    if kind in ("open_ai", "dashscope") and fields["base_url"] and "base_url" not in substitution.defaulted:
        substitution.problems.pop("api_key", None)  # a self-hosted server often needs no key
    found = substitution.problems.items()
    problems = tuple(f"connection {name!r}: {field}: {reason}" for field, reasons in found for reason in reasons)
    return Connection(name, kind, fields, problems)


@dataclass
class _Substitution:
    """Replaces variables in texts, and records those used, the fields with a default, and the problems by field."""

    environ: Mapping[str, str]
    variables: set[str] = field(default_factory=set)
    defaulted: set[str] = field(default_factory=set)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def apply(self, name: str, value: Any, secret: frozenset[str]) -> Any:
        """Return the value of the field `name` with its variables replaced, in a mapping those of each text."""
        if isinstance(value, dict):
            inner = {key: f"{name}.{key}" for key in value}
            inner_secret = frozenset(inner.values()) if name in secret else frozenset[str]()
            return {key: self.apply(inner[key], text, inner_secret) for key, text in value.items()}
        if not isinstance(value, str):
            return value
        if name in secret and _PLACEHOLDER.fullmatch(value):
            self.problems.setdefault(name, []).append(f"it is the placeholder {value!r}")
        return _VARIABLE.sub(lambda match: self._variable(name, match), value)

    def _variable(self, name: str, match: re.Match[str]) -> str:
        variable, default = match.groups()
        self.variables.add(variable)
        if value := self.environ.get(variable, "").strip():  # mounted secrets often end with a line feed
            return value
        if default is None:
            self.problems.setdefault(name, []).append(f"the environment variable {variable} is not set")
        else:
            self.defaulted.add(name)
        return default or ""
