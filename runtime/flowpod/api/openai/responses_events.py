"""A run's events as those of OpenAI's Responses, and the response that they come to."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any, Literal

from flowpod.api.openai.responses_input import response_id
from flowpod.engine.events import Event, RunOutput, RunStarted, RunTerminated
from flowpod.jsonable import as_text, dumps

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_STATUS = {"Completed": "completed", "Failed": "failed", "Canceled": "cancelled"}
Wire = dict[str, Any]


class ResponseEvents:
    """One response: takes the run's events one by one; `response` is what they have come to.

    The same events always make the same wire events, with the same sequence numbers, whether they come from the run or
    from the database. `output` is the flow's chat output, `facts` are what the response says of its request.
    """

    def __init__(self, run_id: str, output: str, facts: Mapping[str, Any]) -> None:
        self._hex = run_id.replace("-", "")
        self._output = output
        self._number = 0
        self._open: Wire | None = None
        self.response: Wire = {
            "id": response_id(run_id),
            "object": "response",
            "created_at": facts["created_at"],
            "status": "queued",
            "background": facts["background"],
            "error": None,
            "incomplete_details": None,
            "instructions": facts["instructions"],
            "max_output_tokens": facts["max_output_tokens"],
            "model": facts["model"],
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": facts["previous_response_id"],
            "reasoning": {"effort": None, "summary": None},
            "store": facts["store"],
            "temperature": facts["temperature"],
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": facts["top_p"],
            "truncation": "disabled",
            "usage": None,
            "user": facts["user"],
            "metadata": facts["metadata"],
        }

    def encode(self, event: Event) -> bytes:
        """Return the frames of an event, or nothing."""
        return b"".join(map(frame, self.add(event)))

    def add(self, event: Event) -> list[Wire]:
        """Take in the next event; return the wire events that it is."""
        match event:
            case RunStarted():
                self.response["status"] = "in_progress"
                return [self._whole("created"), self._whole("in_progress")]
            case RunOutput(output=self._output, has_delta=True):
                return [wire for piece in event.apart() for wire in self._output_of(piece)]
            case RunTerminated():
                return self._end(event)
            case _:
                return []

    def _output_of(self, event: RunOutput) -> list[Wire]:
        return [*self._piece("reasoning", event.reasoning), *self._piece("message", as_text(event.delta))]

    def _piece(self, kind: Literal["reasoning", "message"], text: str) -> list[Wire]:
        if not text:
            return []
        events = []
        if self._open is None or self._open["type"] != kind:
            events = [*self._close(), *self._begin(kind)]
        assert self._open is not None
        self._part["text"] += text
        name = "reasoning_summary_text" if kind == "reasoning" else "output_text"
        more: Wire = {"delta": text} if kind == "reasoning" else {"delta": text, "logprobs": []}
        return [*events, self._of_part(f"{name}.delta", more)]

    def _begin(self, kind: Literal["reasoning", "message"]) -> list[Wire]:
        number = len(self.response["output"])
        if kind == "reasoning":
            item: Wire = {"id": f"rs_{self._hex}_{number}", "type": "reasoning", "summary": []}
            part: Wire = {"type": "summary_text", "text": ""}
        else:
            item = {"id": f"msg_{self._hex}_{number}", "type": "message", "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["status"] = "in_progress"
        self.response["output"].append(item)
        self._open = item
        added = self._event("output_item.added", {"output_index": number, "item": deepcopy(item)})
        item["summary" if kind == "reasoning" else "content"].append(part)
        name = "reasoning_summary_part" if kind == "reasoning" else "content_part"
        return [added, self._of_part(f"{name}.added", {"part": dict(part)})]

    def _close(self, status: Literal["completed", "incomplete"] = "completed") -> list[Wire]:
        if self._open is None:
            return []
        item, part = self._open, self._part
        item["status"] = status
        if item["type"] == "reasoning":
            text = self._of_part("reasoning_summary_text.done", {"text": part["text"]})
            whole = self._of_part("reasoning_summary_part.done", {"part": dict(part)})
        else:
            text = self._of_part("output_text.done", {"text": part["text"], "logprobs": []})
            whole = self._of_part("content_part.done", {"part": dict(part)})
        index = len(self.response["output"]) - 1
        self._open = None
        return [text, whole, self._event("output_item.done", {"output_index": index, "item": deepcopy(item)})]

    def _end(self, event: RunTerminated) -> list[Wire]:
        reason = _INCOMPLETE.get(event.finish_reason) if event.status == "Completed" else None
        events: list[Wire] = []
        if event.status == "Completed" and not any(item["type"] == "message" for item in self.response["output"]):
            events = [*self._close(), *self._begin("message")]  # an empty answer is one
        events += self._close("completed" if event.status == "Completed" and reason is None else "incomplete")
        status = _STATUS[event.status] if reason is None else "incomplete"
        self.response |= {
            "status": status,
            "error": None if event.error is None else asdict(event.error),
            "incomplete_details": None if reason is None else {"reason": reason},
            "usage": _usage(event.usage),
        }
        # There is no event for a response that was cancelled: clients wait for one of these three.
        return [*events, self._whole(status if status in ("completed", "incomplete") else "failed")]

    @property
    def _part(self) -> Wire:
        assert self._open is not None
        part: Wire = self._open["summary" if self._open["type"] == "reasoning" else "content"][0]
        return part

    def _of_part(self, name: str, more: Wire) -> Wire:
        assert self._open is not None
        place = "summary_index" if self._open["type"] == "reasoning" else "content_index"
        index = len(self.response["output"]) - 1
        return self._event(name, {"item_id": self._open["id"], "output_index": index, place: 0, **more})

    def _whole(self, name: str) -> Wire:
        return self._event(name, {"response": deepcopy(self.response)})

    def _event(self, name: str, more: Wire) -> Wire:
        event = {"type": f"response.{name}", "sequence_number": self._number, **more}
        self._number += 1
        return event


def frame(event: Wire) -> bytes:
    """Return an event as it is sent."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), dumps(event))


def _usage(usage: Mapping[str, int]) -> Wire | None:
    if not usage:
        return None
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.get("total_tokens", 0),
    }
