"""What a node does. Each kind is a file; no kind knows another."""

from collections.abc import Callable, Mapping

from runtime.nodes.aggregate import AggregateNode
from runtime.nodes.assign import AssignNode
from runtime.nodes.base import Node, NodeSpec, Resources
from runtime.nodes.batch import BatchNode
from runtime.nodes.condition import ConditionNode
from runtime.nodes.llm import LLMNode
from runtime.nodes.loop import LoopNode
from runtime.nodes.output import OutputNode
from runtime.nodes.prompt import PromptNode
from runtime.nodes.python import PythonNode
from runtime.nodes.template import TemplateNode

KINDS: Mapping[str, Callable[[NodeSpec, Resources], Node]] = {
    "llm": LLMNode,
    "prompt": PromptNode,
    "python": PythonNode,
    "condition": ConditionNode,
    "aggregate": AggregateNode,
    "assign": AssignNode,
    "template": TemplateNode,
    "output": OutputNode,
    "batch": BatchNode,
    "loop": LoopNode,
}
