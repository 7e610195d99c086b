"""The nodes of a flow as DashScope's clients see them while it runs: as thoughts, or as messages."""

from collections.abc import Mapping
from typing import Any

from flowpod.api.dashscope.frames import Growing
from flowpod.engine.events import NodeUpdated, RunOutput
from flowpod.jsonable import as_text, dumps

_LLM, _OUTPUT = "LLM", "Output"  # node types whose text has a form of its own
_STATUSES: Mapping[str, str] = {
    "Running": "executing",
    "Completed": "success",
    "Failed": "failed",
    "Canceled": "failed",
}
_END = "End"


class Thoughts:
    """Every node of the flow that has begun, in order, as an object in the `response` of a thought."""

    def __init__(self, node_types: Mapping[str, str], *, incremental: bool) -> None:
        self._node_types = node_types
        self._incremental = incremental
        self._nodes: dict[str, dict[str, Any]] = {}
        self._said: dict[str, tuple[Growing, Growing]] = {}
        self._new: dict[str, tuple[str, str]] = {}
        self._changed: dict[str, None] = {}

    def update(self, event: NodeUpdated) -> bool:
        """Take in a node's state; return whether there is something to tell."""
        name = event.node
        if name not in self._node_types or event.status == "Bypassed":
            return False  # nodes inside of others are told of by those
        node = self._node(name)
        node["nodeStatus"] = _STATUSES[event.status]
        node["nodeExecTime"] = f"{round(event.duration * 1000)}ms"
        self._new.pop(name, None)
        if event.status == "Completed":
            reasoning = self._said[name][1].whole() if name in self._said else ""
            node["nodeResult"] = self._result(name, as_text(event.output), reasoning)
        elif event.error is not None:
            node["nodeResult"] = event.error.message
        return True

    def add(self, event: RunOutput) -> bool:
        """Take in a piece of a node's text; return whether there is something to tell."""
        name = event.node
        if not event.is_stream or name not in self._nodes or not (event.delta or event.reasoning):
            return False
        text, reasoning = self._said.setdefault(name, (Growing(), Growing()))
        text.add(event.delta)
        reasoning.add(event.reasoning)
        self._new[name] = (event.delta, event.reasoning)
        self._changed[name] = None
        return bool(event.delta) or self._incremental or reasoning.is_due

    def told(self) -> list[dict[str, str]]:
        """Return all thoughts, or of an incremental stream those that are new or changed since the last time.

        Nodes that are not done are there with their text so far, or with what is new of it.
        """
        return self._changes() if self._incremental else self.all()

    def all(self) -> list[dict[str, str]]:
        """Return all thoughts."""
        for name in self._new:
            text, reasoning = self._said[name]
            self._nodes[name]["nodeResult"] = self._result(name, text.whole(), reasoning.whole())
        self._changed.clear()
        return [_thought(node) for node in self._nodes.values()]

    def _changes(self) -> list[dict[str, str]]:
        for name, (text, reasoning) in self._new.items():
            self._nodes[name]["nodeResult"] = self._result(name, text, reasoning)
        names, self._changed, self._new = self._changed, {}, {}
        return [_thought(self._nodes[name]) for name in names]

    def _node(self, name: str) -> dict[str, Any]:
        self._changed[name] = None
        if name not in self._nodes:
            self._nodes[name] = {"nodeId": name, "nodeName": name, "nodeType": self._node_types[name]}
        return self._nodes[name]

    def _result(self, name: str, text: str, reasoning: str) -> str:
        return _said(text, reasoning) if self._node_types[name] == _LLM else text


def _thought(node: Mapping[str, Any]) -> dict[str, str]:
    return {"response": dumps(node).decode()}


def _said(text: str, reasoning: str) -> str:
    """Return what an LLM node says as clients expect it: JSON inside of a text."""
    return dumps({"result": text, **({"reasoningContent": reasoning} if reasoning else {})}).decode()


class Messages:
    """Messages of the nodes that make the answer, or `of_all` nodes; each node numbers its own.

    The flow's answer is the End node's, which ends last, unless output nodes make it. `flags_as_text` writes "true" for
    true.
    """

    def __init__(self, node_types: Mapping[str, str], *, of_all: bool, flags_as_text: bool) -> None:
        self._node_types = node_types
        self._of_all = of_all
        self._flags_as_text = flags_as_text
        self._numbers: dict[str, int] = {}
        self._open = ""
        self._streamed: set[str] = set()

    def of_start(self) -> list[dict[str, Any]]:
        """Return the messages of a run's beginning."""
        return [self._message("Start", "Start", "", ended=True)] if self._of_all else []

    def of_node(self, event: NodeUpdated) -> list[dict[str, Any]]:
        """Return the messages of a node's end. A node that streamed has said everything before."""
        kind = self._node_types.get(event.node, _OUTPUT)
        if not self._of_all or kind == _OUTPUT or event.status != "Completed":
            return []
        text = "" if event.node in self._streamed else as_text(event.output)
        content = _said(text, "") if kind == _LLM else text
        return [self._message(event.node, kind, content, ended=True)]

    def of_output(self, event: RunOutput) -> list[dict[str, Any]]:
        """Return the messages of a piece of the answer, or of its end."""
        name = event.node
        kind = self._node_types.get(name)
        node = name if kind == _OUTPUT else _END
        messages = []
        text, is_last = (as_text(event.delta) if event.has_delta else ""), event.status == "Finished"
        if self._open and self._open != node:
            messages.append(self._end(self._open, ""))
        self._open = node
        if self._of_all and event.is_stream and kind == _LLM and (text or event.reasoning):
            self._streamed.add(name)
            messages.append(self._message(name, _LLM, _said(text, event.reasoning), ended=False))
        if is_last and node != _END:
            messages.append(self._end(node, text))
            self._open = ""
        elif text:
            messages.append(self._message(node, self._type_of(node), text, ended=False))
        return messages

    def of_end(self) -> list[dict[str, Any]]:
        """Return the messages of a run's end: other nodes may end after the answer is there."""
        return [self._end(_END, "")] if self._open == _END else []

    def _type_of(self, node: str) -> str:
        return _END if node == _END else _OUTPUT

    def _end(self, node: str, text: str) -> dict[str, Any]:
        return self._message(node, self._type_of(node), text, ended=True)

    def _message(self, node: str, kind: str, content: str, *, ended: bool) -> dict[str, Any]:
        number = self._numbers.get(node, 0)
        self._numbers[node] = number + 1
        return {
            "node_id": node,
            "node_name": node,
            "node_type": kind,
            "node_status": "success" if ended else "executing",
            "node_is_completed": str(ended).lower() if self._flags_as_text else ended,
            "node_msg_seq_id": number,
            "message": {"role": "assistant", "content": content},
        }
