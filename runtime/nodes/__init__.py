"""What a node does. Each kind is a file; no kind knows another."""

from collections.abc import Callable, Mapping

from runtime.nodes.base import Node, NodeSpec, Resources
from runtime.nodes.builtin_tools import tool_node
from runtime.nodes.llm import LLMNode
from runtime.nodes.prompt import PromptNode

KINDS: Mapping[str, Callable[[NodeSpec, Resources], Node]] = {
    "custom_llm": tool_node,
    "llm": LLMNode,
    "prompt": PromptNode,
    "python": tool_node,
}
