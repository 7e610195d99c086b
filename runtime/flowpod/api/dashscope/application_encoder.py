"""Encodes a run as the result of an application call: frames while it runs, or one object when it has ended."""

from collections.abc import Mapping
from typing import Any, Literal

from flowpod.api.dashscope.errors import dashscope_error
from flowpod.api.dashscope.frames import CumulativeText, FrameWriter
from flowpod.api.dashscope.node_states import NodeMessages, NodeThoughts
from flowpod.api.http.outcome import Outcome
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.jsonable import as_text

StreamMode = Literal["full_thoughts", "message_format", "message_format_plus"]
"""How a stream reports nodes: as thoughts, as messages of the End and Output nodes, or as messages of all nodes."""


class ApplicationEncoder:
    """Encodes a run as the result of an application call.

    `output` is the flow's chat output, `node_types` has the DashScope type of each node, `default_model` names a model
    that does not name itself. Frames repeat the text so far, or with `incremental` have only new text. Messages always
    have only new text.
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
        self._thoughts = NodeThoughts(node_types, incremental=incremental) if has_thoughts else None
        self._messages = NodeMessages(node_types, all_nodes=mode == "message_format_plus", flags_as_text=flags_as_text)
        self._frames = FrameWriter(request_id)
        self._text = CumulativeText()
        self._models: Mapping[str, Mapping[str, int]] = {}

    def encode(self, event: Event) -> bytes:
        """Return the frames of an event, or b""."""
        if isinstance(event, RunOutput) and event.chunk_lengths:
            return b"".join(map(self.encode, event.split_chunks()))
        if isinstance(event, NodeUpdated | RunTerminated):
            self._models = event.models or {}
        if isinstance(event, RunTerminated):
            return self._frames.error(event.error) if event.error is not None else self._last_frames(event)
        if self._mode != "full_thoughts":
            return self._message_frames(event)
        if isinstance(event, NodeUpdated) and self._thoughts is not None:
            return self._text_frame("") if self._thoughts.update(event) else b""
        if isinstance(event, RunOutput) and event.output == self._output and event.has_delta:
            return self._chunk_frame(event)
        return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the result, or the error of a run that failed."""
        if outcome.terminated.error is not None:
            return dashscope_error(outcome.terminated.error, self._request_id)
        output: dict[str, Any] = {"finish_reason": "stop", "session_id": self._session_id}
        if self._thoughts is not None:
            for node in outcome.nodes.values():
                self._thoughts.update(node)
            output["thoughts"] = self._thoughts.cumulative()
        output["text"] = as_text(outcome.outputs.get(self._output))
        usage = self._usage_by_model(outcome.terminated.models)
        return {"output": output, "usage": usage, "request_id": self._request_id}

    def _chunk_frame(self, event: RunOutput) -> bytes:
        delta = as_text(event.delta)
        self._text.add_chunk(delta)
        has_news = self._thoughts is not None and self._thoughts.add_chunk(event)
        if self._incremental:
            return self._text_frame(delta) if delta or has_news else b""
        return self._text_frame(delta) if (delta and self._text.is_due) or (has_news and not delta) else b""

    def _message_frames(self, event: Event) -> bytes:
        messages: list[dict[str, Any]] = []
        if isinstance(event, RunOutput) and event.output == self._output:
            if event.has_delta:
                self._text.add_chunk(as_text(event.delta))
            messages = self._messages.for_output(event)
        elif isinstance(event, NodeUpdated):
            messages = self._messages.for_node(event)
        elif isinstance(event, RunStarted):
            messages = self._messages.for_start()
        elif isinstance(event, RunTerminated):
            messages = self._messages.for_end()
        opening, usage = {"session_id": self._session_id, "finish_reason": "null"}, self._usage_by_model(self._models)
        return b"".join(self._frames.result({**opening, "workflow_message": message}, usage) for message in messages)

    def _text_frame(self, delta: str) -> bytes:
        output: dict[str, Any] = {"session_id": self._session_id, "finish_reason": "null"}
        if self._thoughts is not None:
            output["thoughts"] = self._thoughts.next()
        output["text"] = delta if self._incremental else self._text.send()
        return self._frames.result(output, self._usage_by_model(self._models))

    def _last_frames(self, event: RunTerminated) -> bytes:
        output: dict[str, Any] = {"session_id": self._session_id, "finish_reason": "stop"}
        if self._mode == "full_thoughts" and self._thoughts is not None:
            output["thoughts"] = self._thoughts.next()
        has_whole_text = self._mode != "full_thoughts" or not self._incremental
        output["text"] = self._text.send() if has_whole_text else ""
        messages = self._message_frames(event) if self._mode != "full_thoughts" else b""
        return messages + self._frames.result(output, self._usage_by_model(self._models))

    def _usage_by_model(self, models: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        usage = [
            {
                "input_tokens": counts["prompt_tokens"],
                "output_tokens": counts["completion_tokens"],
                "model_id": name or self._default_model,
            }
            for name, counts in models.items()
        ]
        return {"models": usage} if usage else {}
