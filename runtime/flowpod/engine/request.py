"""The request of a run, and its conversion to the inputs of the flow."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from flowpod.content.files import Files
from flowpod.content.images import ImageRules
from flowpod.errors import InvalidRequest
from flowpod.flow.model import FILE_TYPES, SECRET_VARIABLES, Flow
from flowpod.flow.values import coerce

WireProtocol = Literal["simple", "complete", "openai", "responses", "dashscope", "score", "command"]
"""The protocol through which a run was requested."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One call of the flow, the same for every protocol.

    `assigned`: the service made up `session_id`, so there is no stored session to read. `keep_assigned`: the turn is
    stored even then. `unnamed`: the session continues although no client has named it, and expires with its recorded
    runs. `headers` carry the caller's trace context. `streaming`: the caller reads outputs as they come.
    `history_rounds` is the number of past turns that the caller wants, None for the flow's own number. `overrides` are
    model parameters; each node takes those that it allows. `given` are the `${sys.NAME}` variables that only some
    requests have; secrets may be among them. `marks` are values that the protocol keeps with the session under names of
    its own.
    """

    inputs: Mapping[str, Any]
    session_id: str
    streaming: bool = True
    assigned: bool = False
    keep_assigned: bool = True
    unnamed: bool = False
    user_id: str | None = None
    instructions: str = ""
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    history_rounds: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    protocol: WireProtocol = "command"
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)
    marks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def secrets(self) -> tuple[Any, ...]:
        """The secret values among the `given` variables."""
        return tuple(self.given.get(name) for name in SECRET_VARIABLES)


def flow_inputs(flow: Flow, given: Mapping[str, Any], *, private_urls: bool = False) -> dict[str, Any]:
    """Return a value for every input of the flow, converted to its type.

    A null counts as absent, and an absent chat history is empty. A flow without inputs ignores the given values. Images
    are checked: a request must not name files, nor private addresses without `private_urls`. A file stays a mapping of
    its fields. Raises InvalidRequest that names an input that is unknown, missing or of the wrong type.
    """
    for name in given if flow.inputs else ():
        if name not in flow.inputs:
            known = ", ".join(flow.inputs) or "none"
            raise InvalidRequest(
                f"the flow has no input {name!r}; its inputs: {known}", param=name, code="unknown_input"
            )
    inputs, images = {}, ImageRules(private_urls=private_urls)
    for name, declared in flow.inputs.items():
        if given.get(name) is not None:
            try:
                value = coerce(given[name], declared.type)
                inputs[name] = images.checked(value, is_image=declared.type == "image")
            except ValueError as error:
                raise InvalidRequest(f"input {name!r}: {error}", param=name, code="invalid_input") from None
        elif declared.has_default:
            inputs[name] = deepcopy(declared.default)  # the flow's own code may change it
        elif name == flow.chat_history:
            inputs[name] = []
        else:
            raise InvalidRequest(f"input {name!r} is missing", param=name, code="missing_input")
    return inputs


async def with_files(flow: Flow, given: Mapping[str, Any], inputs: Mapping[str, Any], files: Files) -> dict[str, Any]:
    """Return `inputs` with an object for every file. Files that the request has `given` are checked.

    Raises InvalidRequest that names an input whose file is not allowed.
    """
    made = dict(inputs)
    for name, declared in flow.inputs.items():
        if declared.type not in FILE_TYPES or made[name] is None:
            continue
        if given.get(name) is not None:
            try:
                await files.check(made[name])
            except ValueError as error:
                raise InvalidRequest(f"input {name!r}: {error}", param=name, code="invalid_file") from None
        made[name] = files.make(**made[name])
    return made
