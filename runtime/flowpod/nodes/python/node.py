"""The python and custom_llm nodes: they call a tool, plain or async, or a generator of either sort."""

import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any

from flowpod.content.image_fetch import with_image_objects
from flowpod.errors import BuildError
from flowpod.flow.document.base import PromptFlowOptions, SourceOptions
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.models.base import Chunk, Result
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources, Streams
from flowpod.nodes.python.arguments import Arguments, check_names
from flowpod.nodes.python.package_tools import package_tool
from flowpod.nodes.python.promptflow_tools import built_in_tool
from flowpod.nodes.python.tool_files import Tool, file_tool
from flowpod.nodes.source import check_source
from flowpod.threads import Threads

_MAY_BE_ITERATOR = re.compile(r"Iter|Generator|\b(Any|any|object)\b")
_END = object()


class PythonOptions(PromptFlowOptions):
    """Calls a Python function of the flow, or a tool of an installed package."""


class CustomLLMOptions(PromptFlowOptions):
    """Calls a tool of an installed package with a prompt file."""


class PythonNode(BuiltNode):
    """Calls a tool: async ones on the event loop, others in a thread."""

    def __init__(self, node: Node, options: PromptFlowOptions, resources: Resources) -> None:
        source = options.source
        tool = _tool_of(source, resources)
        self._arguments = Arguments(tool.function, node, resources, method=tool.owner is not None)
        if source.type == "package_with_prompt":
            self._arguments.give_prompt(source, resources)
        self._threads = resources.threads
        self._private_urls = resources.private_urls
        self.optional = self._arguments.optional
        self.streams = _streams(tool.function)
        self.connections = frozenset(self._arguments.connections)
        if tool.owner is None:
            check_names(tool.title, node, self._arguments)
            self._function = tool.function
        else:
            self._function = self._method(tool, tool.owner, node, resources)
        self._is_async = inspect.isasyncgenfunction(self._function) or inspect.iscoroutinefunction(self._function)

    def _method(self, tool: Tool, owner: type, node: Node, resources: Resources) -> Callable[..., Any]:
        """Return the tool's method of an object that is constructed with the node's literals."""
        constructor = Arguments(owner, node, resources)
        check_names(tool.title, node, constructor, self._arguments)
        given = [name for name in node.inputs if name in constructor.parameters]
        for name in given:
            if name not in node.literals:
                text = f"the constructor of {owner.__name__} takes it before there is a run, so it must be a literal"
                raise BuildError(f"inputs.{name}", text)
        try:
            instance = owner(**constructor.of({name: node.inputs[name] for name in given}))
        except Exception as error:
            text = f"{tool.place}: {owner.__name__} cannot be constructed: {type(error).__name__}: {error}"
            raise BuildError("source.path", text) from error
        self.connections |= constructor.connections
        self._arguments.exclude(given)
        return getattr(instance, tool.function.__name__)  # type: ignore[no-any-return]

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:  # noqa: ARG002
        """Return what the tool returns. A generator, also one that the tool returns, is streamed."""
        arguments = await with_image_objects(self._arguments.of(inputs), private_urls=self._private_urls)
        if self._is_async:
            value = self._function(**arguments)
        else:
            value = await self._threads.run(self._function, **arguments)
        if inspect.isawaitable(value):
            value = await value
        if isinstance(value, AsyncIterator):
            return _streamed(value)
        if isinstance(value, Iterator):
            return _streamed(_in_threads(value, self._threads))
        return value


def _tool_of(source: SourceOptions, resources: Resources) -> Tool:
    if source.type == "code":
        return file_tool(source.path, resources.modules)
    return package_tool(source.tool)


async def _in_threads(items: Iterator[Any], threads: Threads) -> AsyncIterator[Any]:
    try:
        while (item := await threads.run(next, items, _END)) is not _END:
            yield item
    finally:
        # A generator that is running is in an abandoned thread.
        if isinstance(items, Generator) and inspect.getgeneratorstate(items) != inspect.GEN_RUNNING:
            with suppress(ValueError):
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


def _streams(function: Callable[..., Any]) -> Streams:
    inner = inspect.unwrap(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        return "yes"
    returned = inspect.signature(function).return_annotation
    if returned is inspect.Signature.empty or _MAY_BE_ITERATOR.search(inspect.formatannotation(returned)):
        return "perhaps"
    return "no"


def _build(node: Node, options: PromptFlowOptions, resources: Resources) -> BuiltNode:
    return built_in_tool(node, options, resources) or PythonNode(node, options, resources)


def _check_custom_llm(options: CustomLLMOptions, check: NodeCheck) -> None:
    if options.source.type == "package_with_prompt":
        check_source(options, check)
    else:
        text = f"node {check.node.name!r}: a custom_llm node has the source type package_with_prompt"
        check.error(("source", "type"), text)


PYTHON = Kind(
    "python",
    PythonOptions,
    dashscope_type="Script",
    build=_build,
    check=check_source,
    streams="perhaps",
    takes_secrets=True,
    span_kind="TOOL",
)
CUSTOM_LLM = Kind(
    "custom_llm",
    CustomLLMOptions,
    dashscope_type="Plugin",
    build=_build,
    check=_check_custom_llm,
    streams="perhaps",
    takes_secrets=True,
)
