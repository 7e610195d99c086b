"""A run's events as those of OpenAI's Responses, and the response that they make up."""

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
    """One response, built from the run's events; `response` is its state after the events so far.

    The same events always make the same wire events, with the same sequence numbers, whether they come from the run or
    from the database. `output` is the flow's chat output, `details` are the response's fields about its request.
    """

    def __init__(self, run_id: str, output: str, details: Mapping[str, Any]) -> None:
        self._hex = run_id.replace("-", "")
        self._output = output
        self._number = 0
        self._item: Wire | None = None
        self._texts: list[str] = []
        self._response: Wire = {
            "id": response_id(run_id),
            "object": "response",
            "created_at": details["created_at"],
            "status": "queued",
            "background": details["background"],
            "error": None,
            "incomplete_details": None,
            "instructions": details["instructions"],
            "max_output_tokens": details["max_output_tokens"],
            "model": details["model"],
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": details["previous_response_id"],
            "reasoning": {"effort": None, "summary": None},
            "store": details["store"],
            "temperature": details["temperature"],
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": details["top_p"],
            "truncation": "disabled",
            "usage": None,
            "user": details["user"],
            "metadata": details["metadata"],
        }

    @property
    def response(self) -> Wire:
        """The response after the events so far."""
        self._join_texts()
        return self._response

    def _join_texts(self) -> None:
        """Put the text of the open item into the response; not at each chunk, which would take quadratic time."""
        if self._texts:
            self._texts = ["".join(self._texts)]
            self._item_part["text"] = self._texts[0]

    def encode(self, event: Event) -> bytes:
        """Return the frames of an event; empty for an event that the protocol does not have."""
        return b"".join(map(encode_frame, self.add_event(event)))

    def add_event(self, event: Event) -> list[Wire]:
        """Add the next event of the run; return its wire events."""
        match event:
            case RunStarted():
                self._response["status"] = "in_progress"
                return [self._response_event("created"), self._response_event("in_progress")]
            case RunOutput(output=self._output, has_delta=True):
                return [wire for chunk in event.split_chunks() for wire in self._chunk_events(chunk)]
            case RunTerminated():
                return self._end_events(event)
            case _:
                return []

    def _chunk_events(self, event: RunOutput) -> list[Wire]:
        return [*self._text_events("reasoning", event.reasoning), *self._text_events("message", as_text(event.delta))]

    def _text_events(self, kind: Literal["reasoning", "message"], text: str) -> list[Wire]:
        if not text:
            return []
        events = []
        if self._item is None or self._item["type"] != kind:
            events = [*self._close_item(), *self._open_item(kind)]
        assert self._item is not None
        self._texts.append(text)
        name = "reasoning_summary_text" if kind == "reasoning" else "output_text"
        fields: Wire = {"delta": text} if kind == "reasoning" else {"delta": text, "logprobs": []}
        return [*events, self._part_event(f"{name}.delta", fields)]

    def _open_item(self, kind: Literal["reasoning", "message"]) -> list[Wire]:
        number = len(self._response["output"])
        if kind == "reasoning":
            item: Wire = {"id": f"rs_{self._hex}_{number}", "type": "reasoning", "summary": []}
            part: Wire = {"type": "summary_text", "text": ""}
        else:
            item = {"id": f"msg_{self._hex}_{number}", "type": "message", "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["status"] = "in_progress"
        self._texts = []
        self._response["output"].append(item)
        self._item = item
        added = self._event("output_item.added", {"output_index": number, "item": deepcopy(item)})
        item["summary" if kind == "reasoning" else "content"].append(part)
        name = "reasoning_summary_part" if kind == "reasoning" else "content_part"
        return [added, self._part_event(f"{name}.added", {"part": dict(part)})]

    def _close_item(self, status: Literal["completed", "incomplete"] = "completed") -> list[Wire]:
        if self._item is None:
            return []
        self._join_texts()
        item, part = self._item, self._item_part
        item["status"] = status
        if item["type"] == "reasoning":
            text = self._part_event("reasoning_summary_text.done", {"text": part["text"]})
            whole = self._part_event("reasoning_summary_part.done", {"part": dict(part)})
        else:
            text = self._part_event("output_text.done", {"text": part["text"], "logprobs": []})
            whole = self._part_event("content_part.done", {"part": dict(part)})
        index = len(self._response["output"]) - 1
        self._item, self._texts = None, []
        return [text, whole, self._event("output_item.done", {"output_index": index, "item": deepcopy(item)})]

    def _end_events(self, event: RunTerminated) -> list[Wire]:
        reason = _INCOMPLETE.get(event.finish_reason) if event.status == "Completed" else None
        events: list[Wire] = []
        if event.status == "Completed" and not any(item["type"] == "message" for item in self._response["output"]):
            events = [*self._close_item(), *self._open_item("message")]  # an empty answer is a message too
        events += self._close_item("completed" if event.status == "Completed" and reason is None else "incomplete")
        status = _STATUS[event.status] if reason is None else "incomplete"
        self._response |= {
            "status": status,
            "error": None if event.error is None else asdict(event.error),
            "incomplete_details": None if reason is None else {"reason": reason},
            "usage": _usage(event.usage),
        }
        # OpenAI has no event for a cancelled response: clients wait for one of these three.
        return [*events, self._response_event(status if status in ("completed", "incomplete") else "failed")]

    @property
    def _item_part(self) -> Wire:
        assert self._item is not None
        part: Wire = self._item["summary" if self._item["type"] == "reasoning" else "content"][0]
        return part

    def _part_event(self, name: str, fields: Wire) -> Wire:
        assert self._item is not None
        place = "summary_index" if self._item["type"] == "reasoning" else "content_index"
        index = len(self._response["output"]) - 1
        return self._event(name, {"item_id": self._item["id"], "output_index": index, place: 0, **fields})

    def _response_event(self, name: str) -> Wire:
        return self._event(name, {"response": deepcopy(self.response)})

    def _event(self, name: str, fields: Wire) -> Wire:
        event = {"type": f"response.{name}", "sequence_number": self._number, **fields}
        self._number += 1
        return event


def encode_frame(event: Wire) -> bytes:
    """Return the server-sent event of a wire event."""
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
