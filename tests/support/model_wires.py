"""How the stand-in for a model puts its answers on the wire: one class for each API that models are called by."""

import json
from typing import Any, Protocol

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
NATIVE_USAGE = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}


def data(content: Any) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    return f"data: {text}\n\n".encode()


class Wire(Protocol):
    """Makes frames of a stream, and whole answers. `bad` is content that is no text."""

    bad: Any

    def text(self, content: Any, *, reasoning: bool = False, index: int = 0) -> bytes: ...
    def end(self, reason: str = "stop", *, usage: Any = None) -> bytes: ...
    def done(self) -> bytes: ...
    def error(self, message: str) -> bytes: ...
    def whole(self, body: dict[str, Any], text: str, reasoning: str) -> dict[str, Any]: ...


class ChatWire:
    """Chat completions and plain completions."""

    bad: Any = ({"type": "text", "text": "x"},)

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain

    def text(self, content: Any, *, reasoning: bool = False, index: int = 0) -> bytes:
        if self._plain:
            return data({"choices": [{"index": index, "text": content, "finish_reason": None}]})
        return self._chunk({"reasoning_content" if reasoning else "content": content}, None, index)

    def end(self, reason: str = "stop", *, usage: Any = None) -> bytes:
        if self._plain:
            return data({"choices": [{"index": 0, "text": "", "finish_reason": reason}], "usage": usage})
        return self._chunk({}, reason, 0, **({"usage": usage} if usage else {}))

    def done(self) -> bytes:
        return data("[DONE]")

    def error(self, message: str) -> bytes:
        return b"event: error\n" + data({"error": {"message": message, "code": "overloaded"}})

    def whole(self, body: dict[str, Any], text: str, reasoning: str) -> dict[str, Any]:
        choice = {"index": 0, **_answered(body, text, reasoning), "finish_reason": "stop"}
        return {"id": "c", "model": "stand-in", "choices": [choice], "usage": USAGE}

    def _chunk(self, delta: dict[str, Any], reason: str | None, index: int, **extra: Any) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        made = {"id": "chatcmpl-model", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}
        return data({**made, "choices": [choice], **extra})


class DashScopeWire:
    """DashScope's text and multimodal generation."""

    bad: Any = 7

    def __init__(self, *, parts: bool = False, plain: bool = False) -> None:
        self._parts = parts
        self._plain = plain
        self._count = 0

    def text(self, content: Any, *, reasoning: bool = False, index: int = 0) -> bytes:
        return self._frame("" if reasoning else content, content if reasoning else "", "null", index, None)

    def end(self, reason: str = "stop", *, usage: Any = None) -> bytes:
        counts = usage and {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
        return self._frame("", "", reason, 0, counts)

    def done(self) -> bytes:
        return b""

    def error(self, message: str) -> bytes:
        content = json.dumps({"code": "Throttling", "message": message, "request_id": "1"})
        return f"id:9\nevent:error\n:HTTP_STATUS/429\ndata:{content}\n\n".encode()

    def whole(self, body: dict[str, Any], text: str, reasoning: str) -> dict[str, Any]:
        tools = body["parameters"].get("tools")
        return {"output": self._output(text, reasoning, "stop", 0, tools), "usage": NATIVE_USAGE, "request_id": "1"}

    def _frame(self, text: Any, reasoning: str, reason: str, index: int, usage: Any) -> bytes:
        self._count += 1
        content = json.dumps(
            {"output": self._output(text, reasoning, reason, index), "usage": usage, "request_id": "1"}
        )
        return f"id:{self._count}\nevent:result\n:HTTP_STATUS/200\ndata:{content}\n\n".encode()

    def _output(self, text: Any, reasoning: str, reason: str, index: int, tools: Any = None) -> dict[str, Any]:
        if self._plain:
            return {"text": text, "finish_reason": reason}
        content = [{"text": text}] if self._parts and isinstance(text, str) else text
        message: dict[str, Any] = {"role": "assistant", "content": content, "reasoning_content": reasoning}
        if tools:
            message |= {"content": "", "tool_calls": [_called(tools)]}
        return {"choices": [{"index": index, "finish_reason": reason, "message": message}]}


class ResponsesWire:
    """OpenAI's Responses."""

    bad: Any = ({"type": "output_text", "text": "x"},)

    def text(self, content: Any, *, reasoning: bool = False, index: int = 0) -> bytes:
        kind = "reasoning_summary_text" if reasoning else "output_text"
        return self._event(f"response.{kind}.delta", delta=content, item_id="m", output_index=index)

    def end(self, reason: str = "stop", *, usage: Any = None) -> bytes:
        counts = usage and {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
        response = {"model": "stand-in", "status": "completed", "usage": counts, "incomplete_details": None}
        if reason == "length":
            response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        return self._event(f"response.{response['status']}", response=response)

    def done(self) -> bytes:
        return b""

    def error(self, message: str) -> bytes:
        return self._event("response.failed", response={"status": "failed", "error": {"code": "x", "message": message}})

    def whole(self, body: dict[str, Any], text: str, reasoning: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        output: list[dict[str, Any]] = [{"type": "message", "role": "assistant", "content": content}]
        if reasoning:
            output.insert(0, {"type": "reasoning", "summary": [{"type": "summary_text", "text": reasoning}]})
        if body.get("tools"):
            output = [{"type": "function_call", "call_id": "c1", "name": body["tools"][0]["name"], "arguments": "{}"}]
        return {"model": "stand-in", "status": "completed", "output": output, "usage": NATIVE_USAGE}

    def _event(self, kind: str, **content: Any) -> bytes:
        return f"event: {kind}\n".encode() + data({"type": kind, "sequence_number": 1, **content})


def _called(tools: Any) -> dict[str, Any]:
    called = {"name": tools[0]["function"]["name"], "arguments": "{}"}
    return {"id": "c1", "type": "function", "function": called}


def _answered(body: dict[str, Any], text: str, reasoning: str) -> dict[str, Any]:
    if "prompt" in body:
        return {"text": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if body.get("tools"):
        message |= {"content": None, "tool_calls": [_called(body["tools"])]}
    elif body.get("functions"):
        message |= {"content": None, "function_call": {"name": body["functions"][0]["name"], "arguments": "{}"}}
    return {"message": message}
