"""The decorator `@tool`, which marks the function that a Python node calls."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

TOOL_MARK = "__tool"
"""The attribute of a marked function; promptflow's own decorator sets the same one."""

Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def tool(function: Function) -> Function: ...
@overload
def tool(function: None = None, **options: Any) -> Callable[[Function], Function]: ...


def tool(function: Function | None = None, **options: Any) -> Function | Callable[[Function], Function]:  # noqa: ARG001
    """Mark a function as a tool; the options are for promptflow's editor and change nothing here."""

    def mark(target: Function) -> Function:
        setattr(target, TOOL_MARK, True)
        return target

    return mark if function is None else mark(function)
