"""The states of a flow's nodes in DashScope's streams: as thoughts, or as workflow messages."""

from collections.abc import Mapping
from typing import Any

from flowpod.api.dashscope.frames import CumulativeText
from flowpod.engine.events import NodeUpdated, RunOutput
from flowpod.jsonable import as_text, dumps

_LLM, _OUTPUT = "LLM", "Output"  # the node types whose text has its own format
_STATUSES: Mapping[str, str] = {
    "Running": "executing",
    "Completed": "success",
    "Failed": "failed",
    "Canceled": "failed",
}
_END = "End"


class NodeThoughts:
    """The `thoughts` of a frame: every node that has started, in order, as JSON in the `response` of a thought."""

    def __init__(self, node_types: Mapping[str, str], *, incremental: bool) -> None:
        self._node_types = node_types
        self._incremental = incremental
        self._nodes: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, tuple[CumulativeText, CumulativeText]] = {}
        self._new: dict[str, tuple[str, str]] = {}
        self._changed: dict[str, None] = {}

    def update(self, event: NodeUpdated) -> bool:
        """Apply a node's new state; return whether a frame is due."""
        name = event.node
        if name not in self._node_types or event.status == "Bypassed":
            return False  # the nodes of a sub-flow are not reported
        node = self._node(name)
        node["nodeStatus"] = _STATUSES[event.status]
        node["nodeExecTime"] = f"{round(event.duration * 1000)}ms"
        self._new.pop(name, None)
        if event.status == "Completed":
            reasoning = self._texts[name][1].send() if name in self._texts else ""
            node["nodeResult"] = self._result(name, as_text(event.output), reasoning)
        elif event.error is not None:
            node["nodeResult"] = event.error.message
        return True

    def add_chunk(self, event: RunOutput) -> bool:
        """Append a chunk of a node's text; return whether a frame is due."""
        name = event.node
        if not event.is_stream or name not in self._nodes or not (event.delta or event.reasoning):
            return False
        text, reasoning = self._texts.setdefault(name, (CumulativeText(), CumulativeText()))
        text.add_chunk(event.delta)
        reasoning.add_chunk(event.reasoning)
        self._new[name] = (event.delta, event.reasoning)
        self._changed[name] = None
        return bool(event.delta) or self._incremental or reasoning.is_due

    def next(self) -> list[dict[str, str]]:
        """Return the thoughts of the next frame: all of them, or of an incremental stream those that changed.

        The result of a node that is executing is its text so far, or in an incremental stream its new text.
        """
        return self._changes() if self._incremental else self.cumulative()

    def cumulative(self) -> list[dict[str, str]]:
        """Return all thoughts with the whole texts."""
        for name in self._new:
            text, reasoning = self._texts[name]
            self._nodes[name]["nodeResult"] = self._result(name, text.send(), reasoning.send())
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
        return _llm_result(text, reasoning) if self._node_types[name] == _LLM else text


def _thought(node: Mapping[str, Any]) -> dict[str, str]:
    return {"response": dumps(node).decode()}


def _llm_result(text: str, reasoning: str) -> str:
    """Return an LLM node's result as clients expect it: JSON inside a string."""
    return dumps({"result": text, **({"reasoningContent": reasoning} if reasoning else {})}).decode()


class NodeMessages:
    """The workflow messages of the nodes that produce the answer, or of `all_nodes`; each node numbers its own.

    The answer belongs to the End node, which ends last, unless output nodes produce it. `flags_as_text` writes booleans
    as "true" and "false".
    """

    def __init__(self, node_types: Mapping[str, str], *, all_nodes: bool, flags_as_text: bool) -> None:
        self._node_types = node_types
        self._all_nodes = all_nodes
        self._flags_as_text = flags_as_text
        self._counts: dict[str, int] = {}
        self._open = ""
        self._streamed: set[str] = set()

    def for_start(self) -> list[dict[str, Any]]:
        """Return the messages when the run starts."""
        return [self._node_message("Start", "Start", "", ended=True)] if self._all_nodes else []

    def for_node(self, event: NodeUpdated) -> list[dict[str, Any]]:
        """Return the messages when a node completes; if it streamed, its text has been sent already."""
        node_type = self._node_types.get(event.node, _OUTPUT)
        if not self._all_nodes or node_type == _OUTPUT or event.status != "Completed":
            return []
        text = "" if event.node in self._streamed else as_text(event.output)
        content = _llm_result(text, "") if node_type == _LLM else text
        return [self._node_message(event.node, node_type, content, ended=True)]

    def for_output(self, event: RunOutput) -> list[dict[str, Any]]:
        """Return the messages for a chunk of the answer, or for its end."""
        name = event.node
        node_type = self._node_types.get(name)
        node = name if node_type == _OUTPUT else _END
        messages = []
        text, is_last = (as_text(event.delta) if event.has_delta else ""), event.status == "Finished"
        if self._open and self._open != node:
            messages.append(self._end_message(self._open, ""))
        self._open = node
        if self._all_nodes and event.is_stream and node_type == _LLM and (text or event.reasoning):
            self._streamed.add(name)
            messages.append(self._node_message(name, _LLM, _llm_result(text, event.reasoning), ended=False))
        if is_last and node != _END:
            messages.append(self._end_message(node, text))
            self._open = ""
        elif text:
            messages.append(self._node_message(node, _answer_type(node), text, ended=False))
        return messages

    def for_end(self) -> list[dict[str, Any]]:
        """Return the messages when the run ends. The End node ends only now: others may end after the answer."""
        return [self._end_message(_END, "")] if self._open == _END else []

    def _end_message(self, node: str, text: str) -> dict[str, Any]:
        return self._node_message(node, _answer_type(node), text, ended=True)

    def _node_message(self, node: str, node_type: str, content: str, *, ended: bool) -> dict[str, Any]:
        number = self._counts.get(node, 0)
        self._counts[node] = number + 1
        return {
            "node_id": node,
            "node_name": node,
            "node_type": node_type,
            "node_status": "success" if ended else "executing",
            "node_is_completed": str(ended).lower() if self._flags_as_text else ended,
            "node_msg_seq_id": number,
            "message": {"role": "assistant", "content": content},
        }


def _answer_type(node: str) -> str:
    return _END if node == _END else _OUTPUT
