"""The parameters of a model call, derived from a node's inputs as promptflow does it.

Each API has a set of parameter names; every other input is a variable of the prompt (promptflow, tools/aoai.py and
openai.py). The defaults are sent even when a node gives no value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowpod.errors import NodeError
from flowpod.flow.values import json_or_text, read_literal

_NOT_SENT = frozenset({"connection", "prompt", "stream"})
_SAMPLING: dict[str, type] = {"temperature": float, "top_p": float}
_PENALTIES: dict[str, type] = {"presence_penalty": float, "frequency_penalty": float}
_CHAT: dict[str, type] = {
    **_SAMPLING,
    **_PENALTIES,
    "stop": object,
    "max_tokens": int,
    "logit_bias": object,
    "user": str,
    "function_call": object,
    "functions": list,
    "tool_choice": object,
    "tools": list,
    "response_format": object,
    "seed": int,
}
_COMPLETION: dict[str, type] = {
    **_SAMPLING,
    **_PENALTIES,
    "suffix": str,
    "max_tokens": int,
    "n": int,
    "logprobs": int,
    "echo": bool,
    "stop": object,
    "best_of": int,
    "logit_bias": object,
    "user": str,
}
_VISION: dict[str, type] = {**_SAMPLING, **_PENALTIES, "stop": object, "max_tokens": int, "seed": int, "detail": str}
# Parameters that promptflow does not have. They are sent unless the prompt has a variable of the name.
_FURTHER: dict[str, type] = {
    "max_completion_tokens": int,
    "logprobs": object,
    "top_logprobs": int,
    "reasoning_effort": str,
    "parallel_tool_calls": bool,
    "extra_body": object,
}
_COMPLETION_DEFAULTS: dict[str, Any] = {
    "suffix": None,
    "max_tokens": 16,
    "temperature": 1.0,
    "top_p": 1.0,
    "n": 1,
    "logprobs": None,
    "echo": False,
    "stop": None,
    "best_of": 1,
    "logit_bias": {},
    "user": "",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """How one API of one type of connection takes its parameters.

    `kinds` maps promptflow's names to the types of their values. `model_names` are the inputs that name the model, in
    order of precedence; only the first is a reserved name.
    """

    kinds: Mapping[str, type]
    model_names: tuple[str, ...]
    defaults: Mapping[str, Any]
    further: Mapping[str, type] = field(default_factory=dict)

    @property
    def reserved(self) -> frozenset[str]:
        """The names that a prompt must not use as variables."""
        return _NOT_SENT | self.kinds.keys() | {self.model_names[0]}

    def takes(self, name: str, variables: frozenset[str]) -> bool:
        """Return whether the input `name` is a parameter, for a prompt that uses `variables`."""
        return name in self.kinds or (name in self.further and name not in variables)

    def parameters(self, inputs: Mapping[str, Any], variables: frozenset[str]) -> dict[str, Any]:
        """Return the parameters for a prompt that uses `variables`; raises NodeError for an input of the wrong type."""
        found = dict(self.defaults)
        further = {name: kind for name, kind in self.further.items() if name not in variables}
        for name, kind in {**self.kinds, **further}.items():
            value = inputs.get(name)
            if value is not None and value != "":
                found[name] = _read(name, value, kind)
        if _is_infinite(inputs.get("max_tokens")):
            found.pop("max_tokens", None)
        for name in ("stop", "logit_bias"):
            if name in found and not found[name]:
                found[name] = self.defaults.get(name)
        if model := next((inputs[name] for name in self.model_names if inputs.get(name)), None):
            found["model"] = str(model)
        extra = found.pop("extra_body", None)
        return {**_without_unused(found, self.defaults), **(extra if isinstance(extra, dict) else {})}


def _without_unused(found: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Drop parameters without value and default. Tools win over functions; a choice without either is dropped."""
    dropped = {name for name, value in found.items() if value is None and name not in defaults}
    if found.get("tools"):
        dropped |= {"functions", "function_call"}
        found.setdefault("tool_choice", "auto")
    else:
        dropped |= {"tools", "tool_choice"}
        if found.get("functions"):
            found.setdefault("function_call", "auto")
        else:
            dropped |= {"functions", "function_call"}
    return {name: value for name, value in found.items() if name not in dropped}


def _read(name: str, value: Any, kind: type) -> Any:
    if name == "max_tokens" and _is_infinite(value):
        return None
    if kind is object:
        read = json_or_text(value)
        return value if name == "stop" and not isinstance(read, list) else read
    try:
        return read_literal(value, kind)
    except ValueError as error:
        raise NodeError(f"inputs.{name}: {error}", code="invalid_parameter") from None


def _is_infinite(value: Any) -> bool:
    return (isinstance(value, str) and value.lower() == "inf") or (isinstance(value, float) and math.isinf(value))


_ANY_CHAT = {"temperature": 1.0, "top_p": 1.0}


def rules_for(api: str, connection_type: str) -> Rules:
    """Return the rules of an API, "chat", "completion" or promptflow's "vision", for a type of connection."""
    azure = connection_type == "azure_open_ai"
    names = ("deployment_name", "model") if azure else ("model", "deployment_name")
    if api == "completion":
        penalties = {} if azure else dict.fromkeys(_PENALTIES)
        return Rules(_COMPLETION, names, {**_COMPLETION_DEFAULTS, **penalties})
    if api == "vision":
        return Rules(_VISION, names, {**_ANY_CHAT, "n": 1, "presence_penalty": 0, "frequency_penalty": 0})
    if azure:
        return Rules({**_CHAT, "n": int}, names, {**_ANY_CHAT, "n": 1}, _FURTHER)
    return Rules(_CHAT, names, _ANY_CHAT, _FURTHER)
