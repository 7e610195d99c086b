"""The variables that nodes read and write: the session's, and a loop's."""

from collections.abc import Mapping
from typing import Any

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


def _typed(value: Any, kind: ValueType) -> Any:
    return None if value is None else coerce(value, kind)
