"""The Python node: a function of the flow's own, plain or async, or a generator of either sort."""

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.nodes.base import TOOL_MARK, Chunk, Context, NodeSpec, Resources, Result, SpecProblem, Streams
from runtime.nodes.threads import Threads

_LANGSTUDIO_ENTRY = "invoke"
_END = object()
_MAY_BE_ITERATOR = re.compile(r"Iter|Generator|\b(Any|any|object)\b")


class PythonNode:
    """Calls the tool of its file: async ones on the event loop, others in a thread."""

    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        path = resources.folder / spec.path
        if path not in resources.modules:
            resources.modules[path] = _load(path)
        self._function = _tool(resources.modules[path], spec.path)
        self._threads = resources.threads
        self.optional = _check_inputs(self._function, spec)
        self.streams = _streams(self._function)

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:  # noqa: ARG002
        """Return what the function returns; a generator, also a returned one, is streamed."""
        if inspect.isasyncgenfunction(self._function) or inspect.iscoroutinefunction(self._function):
            value = self._function(**inputs)
        else:
            value = await self._threads.run(self._function, **inputs)
        if inspect.isawaitable(value):
            value = await value
        if isinstance(value, AsyncIterator):
            return _streamed(value)
        if isinstance(value, Iterator):
            return _streamed(_in_threads(value, self._threads))
        return value


async def _in_threads(items: Iterator[Any], threads: Threads) -> AsyncIterator[Any]:
    try:
        while (item := await threads.run(next, items, _END)) is not _END:
            yield item
    finally:
        if isinstance(items, Generator):
            with suppress(ValueError):  # it runs in a thread that was left behind
                await threads.run(items.close)


async def _streamed(items: AsyncIterator[Any]) -> AsyncIterator[Chunk | Result]:
    texts: list[str] = []
    try:
        async for item in items:
            text = item if isinstance(item, str) else str(item)
            texts.append(text)
            yield Chunk(text)
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()
    yield Result("".join(texts))


def _load(path: Path) -> ModuleType:
    """Return the module in `path`; raises SpecProblem that says what went wrong and in which line."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"flowpod_node_{digest}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecProblem("source.path", f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the module look themselves up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SpecProblem("source.path", _import_failure(path, error)) from error
    return module


def _import_failure(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    place = f"{path.name}, line {line}" if line else path.name
    remedy = "; install it in Flowpod's environment" if isinstance(error, ModuleNotFoundError) else ""
    return f"{place}: {type(error).__name__}: {error}{remedy}"


def _tool(module: ModuleType, path: str) -> Callable[..., Any]:
    tools = {
        name: value for name, value in vars(module).items() if inspect.isfunction(value) and hasattr(value, TOOL_MARK)
    }
    own = {name: value for name, value in tools.items() if value.__module__ == module.__name__} or tools
    if len(own) > 1:
        raise SpecProblem("source.path", f"{path} has {len(own)} functions marked @tool: {', '.join(own)}; leave one")
    function = next(iter(own.values()), getattr(module, _LANGSTUDIO_ENTRY, None))
    if function is None:
        raise SpecProblem("source.path", f"{path} has no function marked @tool")
    if not inspect.isfunction(function):
        raise SpecProblem("source.path", f"{path}: {_LANGSTUDIO_ENTRY} is not a function")
    return function


def _streams(function: Callable[..., Any]) -> Streams:
    inner = inspect.unwrap(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        return "yes"
    returned = inspect.signature(function).return_annotation
    if returned is inspect.Signature.empty or _MAY_BE_ITERATOR.search(inspect.formatannotation(returned)):
        return "perhaps"
    return "no"


def _check_inputs(function: Callable[..., Any], spec: NodeSpec) -> frozenset[str]:
    """Return the function's parameters with a default; raises SpecProblem where inputs and parameters differ."""
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for name in spec.inputs:
        if name not in named and not takes_any:
            text = f"{function.__name__} in {spec.path} has no parameter {name!r}; it has {', '.join(named) or 'none'}"
            raise SpecProblem(f"inputs.{name}", text)
    optional = frozenset(name for name, parameter in named.items() if parameter.default is not parameter.empty)
    if missing := [name for name in named if name not in optional and name not in spec.inputs]:
        text = f"{function.__name__} in {spec.path} also needs {', '.join(missing)}"
        raise SpecProblem("inputs", text)
    return optional
