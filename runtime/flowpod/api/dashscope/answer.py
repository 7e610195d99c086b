"""What DashScope's clients get of a run: frames as it goes on, or one object at its end."""

from collections.abc import Mapping
from typing import Any, Literal

from flowpod.api.dashscope.frames import Frames, Growing
from flowpod.api.dashscope.node_progress import Messages, Thoughts
from flowpod.api.http.outcome import Outcome
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.jsonable import as_text

StreamMode = Literal["full_thoughts", "message_format", "message_format_plus"]
"""How a stream shows nodes: as thoughts, as messages of the End and Output nodes, or as messages of all nodes."""


class Answer:
    """One answer: its constant facts, and how events become frames or a body.

    `output` is the flow's chat output, `node_types` are the kinds of its nodes, `default_model` names a model that does
    not name itself. Text is what there is so far, or with `incremental` what is new. Messages are always what is new.
    """

    def __init__(
        self,
        *,
        output: str,
        session_id: str,
        request_id: str,
        node_types: Mapping[str, str],
        default_model: str,
        mode: StreamMode,
        has_thoughts: bool,
        incremental: bool,
        flags_as_text: bool,
    ) -> None:
        self._output = output
        self._session_id = session_id
        self._request_id = request_id
        self._default_model = default_model
        self._mode = mode
        self._incremental = incremental
        self._node_types = node_types
        self._thoughts = Thoughts(node_types, incremental=incremental) if has_thoughts else None
        self._messages = Messages(node_types, of_all=mode == "message_format_plus", flags_as_text=flags_as_text)
        self._frames = Frames(request_id)
        self._text = Growing()
        self._models: Mapping[str, Mapping[str, int]] = {}

    def encode(self, event: Event) -> bytes:
        """Return the frames of an event, or nothing."""
        if isinstance(event, NodeUpdated | RunTerminated):
            self._models = event.models or {}
        if isinstance(event, RunTerminated):
            return self._frames.error(event.error) if event.error is not None else self._last(event)
        if self._mode != "full_thoughts":
            return self._message_frames(event)
        if isinstance(event, NodeUpdated) and self._thoughts is not None:
            return self._frame("") if self._thoughts.update(event) else b""
        if isinstance(event, RunOutput) and event.output == self._output and event.has_delta:
            return self._piece(event)
        return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the whole answer."""
        output: dict[str, Any] = {"finish_reason": "stop", "session_id": self._session_id}
        if self._thoughts is not None:
            for node in outcome.nodes.values():
                self._thoughts.update(node)
            output["thoughts"] = self._thoughts.all()
        output["text"] = as_text(outcome.outputs.get(self._output))
        return {"output": output, "usage": self._usage(outcome.terminated.models), "request_id": self._request_id}

    def _piece(self, event: RunOutput) -> bytes:
        delta = as_text(event.delta)
        self._text.add(delta)
        thinks = self._thoughts is not None and self._thoughts.add(event)
        if self._incremental:
            return self._frame(delta) if delta or thinks else b""
        return self._frame(delta) if (delta and self._text.is_due) or (thinks and not delta) else b""

    def _message_frames(self, event: Event) -> bytes:
        messages: list[dict[str, Any]] = []
        if isinstance(event, RunOutput) and event.output == self._output:
            if event.has_delta:
                self._text.add(as_text(event.delta))
            messages = self._messages.of_output(event)
        elif isinstance(event, NodeUpdated):
            messages = self._messages.of_node(event)
        elif isinstance(event, RunStarted):
            messages = self._messages.of_start()
        elif isinstance(event, RunTerminated):
            messages = self._messages.of_end()
        opening, usage = {"session_id": self._session_id, "finish_reason": "null"}, self._usage(self._models)
        return b"".join(self._frames.result({**opening, "workflow_message": message}, usage) for message in messages)

    def _frame(self, delta: str) -> bytes:
        output: dict[str, Any] = {"session_id": self._session_id, "finish_reason": "null"}
        if self._thoughts is not None:
            output["thoughts"] = self._thoughts.told()
        output["text"] = delta if self._incremental else self._text.whole()
        return self._frames.result(output, self._usage(self._models))

    def _last(self, event: RunTerminated) -> bytes:
        output: dict[str, Any] = {"session_id": self._session_id, "finish_reason": "stop"}
        if self._mode == "full_thoughts" and self._thoughts is not None:
            output["thoughts"] = self._thoughts.told()
        says_all = self._mode != "full_thoughts" or not self._incremental
        output["text"] = self._text.whole() if says_all else ""
        before = self._message_frames(event) if self._mode != "full_thoughts" else b""
        return before + self._frames.result(output, self._usage(self._models))

    def _usage(self, counted: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        models = [
            {
                "input_tokens": counts["prompt_tokens"],
                "output_tokens": counts["completion_tokens"],
                "model_id": name or self._default_model,
            }
            for name, counts in counted.items()
        ]
        return {"models": models} if models else {}
