"""The types that a tool's annotations ask for, as promptflow interprets them (promptflow, _utils/tool_utils.py)."""

import builtins
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin

from flowpod.compat import modules_in_force


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that inputs of a node can name, with their annotations evaluated where possible."""
    code = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    names = {**vars(builtins), **getattr(inspect.unwrap(code), "__globals__", {})}
    return {
        name: parameter.replace(annotation=_evaluated(parameter.annotation, names))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # noqa: S307 - it is the flow's own code, which runs anyway
    except Exception:  # noqa: BLE001 - Python itself never evaluates an annotation, so an invalid one is no error
        name = annotation.rpartition(".")[2]
        known = vars(modules_in_force.connections()) if name.endswith("Connection") else {}
        return known.get(name, annotation)


def alternatives(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """Return the types that a parameter takes: those of a union except None, or the type of its default."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return () if parameter.default is parameter.empty else (type(parameter.default),)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is typing.Annotated:
        return (get_args(annotation)[0],)
    return (annotation,)


def connection_classes(parameter: inspect.Parameter) -> tuple[type, ...]:
    """Return the connection classes that a parameter takes; empty when it takes anything else as well."""
    kinds = alternatives(parameter)
    return kinds if all(_is_connection(kind) for kind in kinds) else ()


def _is_connection(kind: Any) -> bool:
    # By the name of their base: the classes are those of promptflow where it is installed, otherwise Flowpod's.
    return isinstance(kind, type) and any(base.__name__ == "_Connection" for base in kind.__mro__)


def is_prompt(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes the text of a prompt file."""
    return any(_name(kind) == "PromptTemplate" for kind in alternatives(parameter))


def is_image(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes an image."""
    return any(_name(kind) == "Image" and hasattr(kind, "to_base64") for kind in alternatives(parameter))


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", ""))


def literal_kind(parameter: inspect.Parameter) -> type:
    """Return the type to which a literal is converted: int, float, bool, str, list, or object for anything else."""
    kinds = alternatives(parameter)
    kind = kinds[0] if len(kinds) == 1 else object
    if kind in (int, float, bool, str, list):
        return kind
    # promptflow's text types are not parsed as JSON.
    return str if isinstance(kind, type) and issubclass(kind, enum.Enum | str) else object
