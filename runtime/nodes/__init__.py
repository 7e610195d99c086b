"""What a node does. Each kind is a file; no kind knows another."""

from collections.abc import Callable, Mapping

from runtime.nodes.base import Node, NodeSpec, Resources
from runtime.nodes.llm import LLMNode
from runtime.nodes.prompt import PromptNode
from runtime.nodes.python import PythonNode

KINDS: Mapping[str, Callable[[NodeSpec, Resources], Node]] = {
    "llm": LLMNode,
    "prompt": PromptNode,
    "python": PythonNode,
}
