"""Connections as the objects that a flow's Python code gets."""

from collections.abc import Mapping
from typing import Any

from flowpod.compat import modules_in_force
from flowpod.compat.connections import class_name
from flowpod.errors import BuildError
from flowpod.flow.model import Connection
from flowpod.flow.node_check import no_connection

_FLOWPODS_OWN = ("model", "timeout_s", "max_retries", "stream_usage", "api")


def connection_object(name: Any, classes: tuple[type, ...], connections: Mapping[str, Connection], key: str) -> Any:
    """Return the connection `name` as an object of the first of `classes` that fits it.

    Raises BuildError at `key` when there is no such connection, or it is of none of these classes.
    """
    if not isinstance(name, str):
        raise BuildError(key, f"expected the name of a connection, got {name!r}")
    if name not in connections:
        raise BuildError(key, no_connection(name))
    connection = connections[name]
    module = modules_in_force.connections()
    if connection.type == "custom" and (own := _own_class(connection, classes, module.CustomStrongTypeConnection)):
        return own(configs=connection.fields["configs"], secrets=connection.fields["secrets"])
    kind = vars(module).get(class_name(connection.type))
    if kind not in classes:
        wanted = " or ".join(found.__name__ for found in classes)
        raise BuildError(key, f"connection {name!r} is of type {connection.type!r}, and the tool takes {wanted}")
    assert kind is not None
    if connection.type == "custom":
        return kind(configs=connection.fields["configs"], secrets=connection.fields["secrets"], name=name)
    return kind(name=name, **{field: value for field, value in connection.fields.items() if field not in _FLOWPODS_OWN})


def _own_class(connection: Connection, classes: tuple[type, ...], base: type) -> type[Any] | None:
    """Return the flow's own class of a custom connection: the one that it names, or the first."""
    own = [kind for kind in classes if issubclass(kind, base)]
    named = [kind for kind in own if kind.__name__ == connection.fields.get("custom_type")]
    return next(iter(named + own), None)
