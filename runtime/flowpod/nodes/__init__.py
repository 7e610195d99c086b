"""What a node does. Each kind is a file; no kind knows another."""

from collections.abc import Callable, Mapping

from flowpod.nodes.aggregate import AggregateNode
from flowpod.nodes.assign import AssignNode
from flowpod.nodes.batch import BatchNode
from flowpod.nodes.condition import ConditionNode
from flowpod.nodes.kind import Node, NodeSpec, Resources
from flowpod.nodes.llm import LLMNode
from flowpod.nodes.loop import LoopNode
from flowpod.nodes.output import OutputNode
from flowpod.nodes.prompt import PromptNode
from flowpod.nodes.python.promptflow_tools import tool_node
from flowpod.nodes.template import TemplateNode

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
