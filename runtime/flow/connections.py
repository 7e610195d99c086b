"""`connections.yaml`: named model services whose secrets come from the environment."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import Problem
from runtime.flow.document import ConnectionPart
from runtime.flow.model import Connection
from runtime.flow.source import NOT_A_MAPPING, NOT_TEXT, Source

FILE = "connections.yaml"
OFFLINE = Connection("offline", "offline", {"model": "offline-extract"})
"""The built-in connection of every flow: answers from the prompt's own text, without a model."""

_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TEXT_FIELDS = ("api_key", "base_url", "organization", "model")


def load_connections(folder: Path, environ: Mapping[str, str]) -> tuple[dict[str, Connection], list[Problem]]:
    """Read the flow's connections, with variables filled in from `environ`.

    An unset variable is kept with the connection as its problem: it matters only where a node uses it.
    """
    connections = {OFFLINE.name: OFFLINE}
    path = folder / FILE
    if not path.exists():
        return connections, []
    source = Source(path)
    for name, content in _named(source):
        part = source.read(ConnectionPart, content, (name,))
        if part is None:
            continue
        if part.fallback and part.fallback != OFFLINE.name:
            source.add((name, "fallback"), f"the only fallback is {OFFLINE.name!r}")
        connections[name] = _filled(name, part, environ)
    return connections, source.problems


def _named(source: Source) -> list[tuple[str, Any]]:
    if source.problems or source.content is None:
        return []
    if not isinstance(source.content, dict):
        source.add((), NOT_A_MAPPING)
        return []
    for name in source.content:
        if not isinstance(name, str):
            source.add((str(name),), NOT_TEXT)
    return [(name, content) for name, content in source.content.items() if isinstance(name, str)]


def _filled(name: str, part: ConnectionPart, environ: Mapping[str, str]) -> Connection:
    texts = {field: getattr(part, field) for field in _TEXT_FIELDS}
    variables = {match[0] for text in texts.values() for match in _VARIABLE.findall(text)}
    if part.fallback and not any(environ.get(variable) for variable in variables):
        return Connection(name, OFFLINE.type, OFFLINE.fields, fallback=OFFLINE.name)
    unset: dict[str, list[str]] = {}
    defaulted: set[str] = set()
    fields: dict[str, Any] = {
        "timeout_s": part.timeout_s,
        "max_retries": part.max_retries,
        "stream_usage": part.stream_usage,
    }

    for field, text in texts.items():

        def fill(match: re.Match[str], field: str = field) -> str:
            variable, default = match.groups()
            if value := environ.get(variable, "").strip():  # mounted secrets often end with a line break
                return value
            if default is None:
                unset.setdefault(field, []).append(variable)
            else:
                defaulted.add(field)
            return default or ""

        fields[field] = _VARIABLE.sub(fill, text)
    if fields["base_url"] and "base_url" not in defaulted:
        unset.pop("api_key", None)  # a server of one's own often asks for no key
    problems = tuple(
        f"connection {name!r}: {field}: the environment variable {variable} is not set"
        for field, missing in unset.items()
        for variable in missing
    )
    return Connection(name, part.type, fields, problems)
