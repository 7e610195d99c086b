"""What a node does. Each kind is a file; no kind knows another."""

from collections.abc import Callable, Mapping

from runtime.nodes.aggregate import AggregateNode
from runtime.nodes.assign import AssignNode
from runtime.nodes.base import Node, NodeSpec, Resources
from runtime.nodes.batch import BatchNode
from runtime.nodes.builtin_tools import tool_node
from runtime.nodes.condition import ConditionNode
from runtime.nodes.llm import LLMNode
from runtime.nodes.loop import LoopNode
from runtime.nodes.output import OutputNode
from runtime.nodes.prompt import PromptNode
from runtime.nodes.template import TemplateNode

KINDS: Mapping[str, Callable[[NodeSpec, Resources], Node]] = {
    "custom_llm": tool_node,
    "llm": LLMNode,
    "prompt": PromptNode,
    "python": tool_node,
    "condition": ConditionNode,
    "aggregate": AggregateNode,
    "assign": AssignNode,
    "template": TemplateNode,
    "output": OutputNode,
    "batch": BatchNode,
    "loop": LoopNode,
}
