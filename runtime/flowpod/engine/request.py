"""What a protocol asks of the service, and what the flow makes of it."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from flowpod.content.files import Files
from flowpod.content.images import ImageRules
from flowpod.errors import InvalidRequest
from flowpod.flow.model import FILE_TYPES, MAX_ROUNDS, SECRET_VARIABLES, Flow
from flowpod.flow.values import coerce

__all__ = ["MAX_ROUNDS", "RunRequest", "WireProtocol", "flow_inputs", "with_files"]

WireProtocol = Literal["simple", "complete", "openai", "responses", "dashscope", "score", "command"]
"""What a run was asked for through."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One call of the flow, the same for every protocol.

    `assigned` says that `session_id` is no session to go on with, made up as a rule; `keep_assigned` whether a turn is
    stored even then. `unnamed`: the session goes on, yet no client has named it, and it goes with its recorded runs.
    `headers` carry the caller's trace context. `streaming`: the caller reads outputs as they come.
    `history_rounds` is how many past turns the caller wants in place of what the flow says.
    `overrides` are parameters for the models, of which each node takes those that it leaves to the request.
    `given` are those of the `${sys.NAME}` variables that only some requests have; secrets may be among them.
    `marks` are what the protocol keeps with the session, beside its variables and under names of its own.
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
        """The secret ones of the `given` variables."""
        return tuple(self.given.get(name) for name in SECRET_VARIABLES)


def flow_inputs(flow: Flow, given: Mapping[str, Any], *, private_urls: bool = False) -> dict[str, Any]:
    """Return a value for every input of the flow, each of its type.

    A null counts as not given. A chat history that is not given is empty; a flow without inputs ignores what is given.
    Images are checked: a request names no files, and no private addresses without `private_urls`. A file is a mapping
    of its fields here. Raises InvalidRequest that names an input which is unknown, missing or of the wrong type.
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
    """Return `inputs` with an object for every file; those that a request has `given` are checked.

    Raises InvalidRequest that names an input whose file may not be named.
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
