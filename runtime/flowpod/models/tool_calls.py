"""The tools, or OpenAI's older functions, that a request offers to a model, converted for other APIs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

OfferedCalls = Literal["", "tools", "functions"]
"""What a request offers to the model."""


def offered_calls(parameters: Mapping[str, Any]) -> OfferedCalls:
    """Return what the parameters of a call offer to the model."""
    return "tools" if parameters.get("tools") else "functions" if parameters.get("functions") else ""


def with_tools(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a chat completion with `functions` and `function_call` converted to tools."""
    rest = dict(parameters)
    if functions := rest.pop("functions", None):
        tools = [{"type": "function", "function": function} for function in functions]
        rest["tools"] = [*(rest.get("tools") or ()), *tools]
    if (choice := rest.pop("function_call", None)) and rest.get("tools"):
        rest["tool_choice"] = {"type": "function", "function": choice} if isinstance(choice, dict) else choice
    return rest


def with_tool_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the messages with each function message converted to a tool message, preceded by the call that it answers.

    A prompt cannot hold that call, so only the function's name is known.
    """
    for number, message in enumerate(messages):
        if message["role"] != "function":
            yield message
            continue
        call_id, called = f"call_{number}", {"name": message["name"], "arguments": "{}"}
        yield {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": called}]}
        yield {"role": "tool", "tool_call_id": call_id, "content": message["content"]}


def with_function_call(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's message with its first tool call converted to `function_call`."""
    return {**message, "tool_calls": None, "function_call": message["tool_calls"][0]["function"]}
