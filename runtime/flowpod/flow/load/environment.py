"""`environment_variables`: the variables that a flow sets for its own code."""

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
    """Return the variables that a flow declares, as text; lists and objects are JSON.

    As in promptflow, a value in `environ` takes precedence, and `${connection.key}` is resolved in both. References
    that do not resolve become problems of `source`.
    """
    texts = {
        name: environ.get(name, json.dumps(value) if isinstance(value, dict | list) else str(value))
        for name, value in declared.items()
    }
    resolved = {name: _resolved(name, text, connections, source) for name, text in texts.items()}
    invalid = [name for name, text in resolved.items() if not name or "=" in name or "\0" in name + text]
    for name in invalid:
        source.add(("environment_variables", name), "not a valid name or value of an environment variable")
    return {name: text for name, text in resolved.items() if name not in invalid}


def _resolved(name: str, text: str, connections: Mapping[str, Connection], source: Source) -> str:
    match = _OF_CONNECTION.fullmatch(text.strip())
    if match is None:
        return text
    key = ("environment_variables", name)
    connection = connections.get(match[1])
    if connection is None:
        source.add(key, f"{text}: there is no connection {match[1]!r}; the connections are {', '.join(connections)}")
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
