"""What a node does: the record of a kind, and a file or a folder for each kind.

A node knows its inputs and its context. It knows nothing of HTTP, of storage, of the scheduler, or of other kinds.
"""

from typing import Any

from flowpod.nodes.aggregate import AGGREGATE
from flowpod.nodes.assign import ASSIGN
from flowpod.nodes.batch import BATCH
from flowpod.nodes.condition import CONDITION
from flowpod.nodes.kind import Kind
from flowpod.nodes.llm import LLM
from flowpod.nodes.loop import LOOP
from flowpod.nodes.output import OUTPUT
from flowpod.nodes.prompt import PROMPT
from flowpod.nodes.python.node import CUSTOM_LLM, PYTHON
from flowpod.nodes.template import TEMPLATE

KINDS: dict[str, Kind[Any]] = {
    "llm": LLM,
    "python": PYTHON,
    "prompt": PROMPT,
    "custom_llm": CUSTOM_LLM,
    "condition": CONDITION,
    "aggregate": AGGREGATE,
    "assign": ASSIGN,
    "template": TEMPLATE,
    "output": OUTPUT,
    "batch": BATCH,
    "loop": LOOP,
}
