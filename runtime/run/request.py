"""What a protocol asks of the service, and what the flow makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import InvalidRequest
from runtime.flow.model import Flow
from runtime.flow.values import coerce
from runtime.nodes.images import ImageRules


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One call of the flow, the same for every protocol.

    `assigned` says that the caller named no session and `session_id` was made up; `keep_assigned` whether a turn is
    stored even then. `headers` carry the caller's trace context. `streaming`: the caller reads outputs as they come.
    """

    inputs: Mapping[str, Any]
    session_id: str
    streaming: bool = True
    assigned: bool = False
    keep_assigned: bool = True
    user_id: str | None = None
    instructions: str = ""
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def flow_inputs(flow: Flow, given: Mapping[str, Any], *, private_urls: bool = False) -> dict[str, Any]:
    """Return a value for every input of the flow, each of its type.

    Images are checked: a request names no files, and no private addresses without `private_urls`.
    A chat history that is not given is empty; a flow without inputs ignores what is given. Raises InvalidRequest that
    names an input which is unknown, missing or of the wrong type.
    """
    for name in given if flow.inputs else ():
        if name not in flow.inputs:
            known = ", ".join(flow.inputs) or "none"
            raise InvalidRequest(
                f"the flow has no input {name!r}; its inputs: {known}", param=name, code="unknown_input"
            )
    inputs, images = {}, ImageRules(private_urls=private_urls)
    for name, declared in flow.inputs.items():
        if name in given:
            try:
                value = coerce(given[name], declared.type)
                inputs[name] = images.checked(value, is_image=declared.type == "image")
            except ValueError as error:
                raise InvalidRequest(f"input {name!r}: {error}", param=name, code="invalid_input") from None
        elif declared.has_default:
            inputs[name] = declared.default
        elif name == flow.chat_history:
            inputs[name] = []
        else:
            raise InvalidRequest(f"input {name!r} is missing", param=name, code="missing_input")
    return inputs
