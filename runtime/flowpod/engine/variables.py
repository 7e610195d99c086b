"""The variables that nodes read and write: those of the session and those of a loop."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from flowpod.errors import InvalidRequest
from flowpod.flow.model import Node, ValueType, Variable
from flowpod.flow.references import Scope
from flowpod.flow.values import coerce

logger = logging.getLogger(__name__)


class Variables:
    """Reads and writes variables in a scope. `written` holds the session variables that this run has written."""

    def __init__(self, session: Mapping[str, Variable]) -> None:
        self._types = {name: variable.type for name, variable in session.items()}
        self.written: dict[str, Any] = {}

    def loop_values(self, node: Node, scope: Scope) -> dict[str, Any]:
        """Return the initial values of a loop's variables; raises LookupError or ValueError for an invalid default."""
        return {variable.name: _typed(scope.resolve(variable.default), variable.type) for variable in node.variables}

    def read_variable(self, scope: Scope, name: str) -> Any:
        """Return the value of `session.NAME` or `loop.NAME`."""
        source, _, variable = name.partition(".")
        return (scope.session if source == "session" else scope.loop).get(variable)

    def write_variable(self, scope: Scope, loop_types: Mapping[str, ValueType], name: str, value: Any) -> None:
        """Set `session.NAME` or `loop.NAME`; raises ValueError for a value of the wrong type."""
        source, _, variable = name.partition(".")
        if source == "session":
            scope.session[variable] = self.written[variable] = _typed(value, self._types[variable])
        else:
            scope.loop[variable] = _typed(value, loop_types[variable])


def session_values(declared: Mapping[str, Variable], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each declared session variable: the stored one, otherwise the default.

    A flow may change the type of a variable. A stored value that cannot be converted to it is ignored.
    """
    values = {}
    for name, variable in declared.items():
        if name in stored:
            try:
                values[name] = _typed(stored[name], variable.type)
                continue
            except ValueError:
                text = "the stored value of the session variable %r is not of type %s; the default is used"
                logger.warning(text, name, variable.type)
        values[name] = deepcopy(variable.default)
    return values


def typed_values(declared: Mapping[str, Variable], given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a caller's values for session variables; raises InvalidRequest that names an invalid one."""
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
