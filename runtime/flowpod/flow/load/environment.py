"""`environment_variables`: what a flow's own code finds in the process's environment."""

import json
import re
from collections.abc import Mapping
from typing import Any

from flowpod.flow.document.located_yaml import Source
from flowpod.flow.model import Connection

_OF_CONNECTION = re.compile(r"\$\{([^.]+)\.([^.]+)\}")


def variables_of(
    declared: Mapping[str, Any], connections: Mapping[str, Connection], environ: Mapping[str, str], source: Source
) -> dict[str, str]:
    """Return the variables that a flow declares, as text: lists and objects are JSON.

    One that is already set in `environ` keeps its value, as in promptflow; `${connection.key}` resolves in both. What
    does not resolve is noted in `source`.
    """
    texts = {
        name: environ.get(name, json.dumps(value) if isinstance(value, dict | list) else str(value))
        for name, value in declared.items()
    }
    resolved = {name: _resolved(name, text, connections, source) for name, text in texts.items()}
    impossible = [name for name, text in resolved.items() if not name or "=" in name or "\0" in name + text]
    for name in impossible:
        source.add(("environment_variables", name), "no environment variable can have this name or this text")
    return {name: text for name, text in resolved.items() if name not in impossible}


def _resolved(name: str, text: str, connections: Mapping[str, Connection], source: Source) -> str:
    match = _OF_CONNECTION.fullmatch(text.strip())
    if match is None:
        return text
    key = ("environment_variables", name)
    connection = connections.get(match[1])
    if connection is None:
        source.add(key, f"{text}: there is no connection {match[1]!r}; there are {', '.join(connections)}")
        return text
    fields = connection.fields
    values = {**fields, **fields.get("configs", {}), **fields.get("secrets", {})}
    value = values.get(match[2])
    if not isinstance(value, str):
        source.add(key, f"{text}: connection {match[1]!r} has no {match[2]!r}")
        return text
    for problem in connection.problems:
        source.add(key, problem, "environment")
    return value
