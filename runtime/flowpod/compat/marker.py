"""How the function of a Python node is marked."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

TOOL_MARK = "__tool"
"""The attribute of a function that is a Python node's; promptflow's decorator sets the same one."""

Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def tool(function: Function) -> Function: ...
@overload
def tool(function: None = None, **options: Any) -> Callable[[Function], Function]: ...


def tool(function: Function | None = None, **options: Any) -> Function | Callable[[Function], Function]:  # noqa: ARG001
    """Mark a function as what its node calls; with or without arguments, which promptflow shows in its editor."""

    def mark(target: Function) -> Function:
        setattr(target, TOOL_MARK, True)
        return target

    return mark if function is None else mark(function)
