"""The variables that nodes read and write: the session's, and a loop's."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from runtime.errors import InvalidRequest
from runtime.flow.model import Node, ValueType, Variable
from runtime.flow.references import Scope
from runtime.flow.values import coerce


class Variables:
    """Reads and writes variables in a scope; `written` holds the session's that were written in this run."""

    def __init__(self, session: Mapping[str, Variable]) -> None:
        self._types = {name: variable.type for name, variable in session.items()}
        self.written: dict[str, Any] = {}

    def of_loop(self, node: Node, scope: Scope) -> dict[str, Any]:
        """Return a loop's variables as it begins; raises LookupError or ValueError for a default that is none."""
        return {variable.name: _typed(scope.resolve(variable.default), variable.type) for variable in node.variables}

    def read(self, scope: Scope, name: str) -> Any:
        """Return the value of `session.NAME` or `loop.NAME`."""
        source, _, variable = name.partition(".")
        return (scope.session if source == "session" else scope.loop).get(variable)

    def write(self, scope: Scope, loop_types: Mapping[str, ValueType], name: str, value: Any) -> None:
        """Set `session.NAME` or `loop.NAME`; raises ValueError for a value of another type."""
        source, _, variable = name.partition(".")
        if source == "session":
            scope.session[variable] = self.written[variable] = _typed(value, self._types[variable])
        else:
            scope.loop[variable] = _typed(value, loop_types[variable])


def session_values(declared: Mapping[str, Variable], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's variables: what is stored of those that are declared, else their defaults."""
    return {name: stored.get(name, deepcopy(variable.default)) for name, variable in declared.items()}


def typed_values(declared: Mapping[str, Variable], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a caller's values for session variables; raises InvalidRequest that names one which is wrong."""
    values = {}
    for name, value in given.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            message = f"the flow has no session variable {name!r}; its variables: {known}"
            raise InvalidRequest(message, param=name, code="unknown_variable")
        try:
            values[name] = _typed(value, declared[name].type)
        except ValueError as error:
            raise InvalidRequest(f"variable {name!r}: {error}", param=name, code="invalid_variable") from None
    return values


def _typed(value: Any, kind: ValueType) -> Any:
    return None if value is None else coerce(value, kind)
