"""What reading and checking a flow needs of a node kind. The kinds themselves are records in `flowpod.nodes`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowpod.flow.document.base import NodeOptions, VariableOptions
from flowpod.flow.model import BodyScope
from flowpod.flow.node_check import NodeCheck


@dataclass(frozen=True, slots=True)
class BodyOptions:
    """The nodes inside a node, as the file has them.

    `scope` says which references they may use besides the usual ones. `variables` are those of a loop, `result` is the
    value of one round.
    """

    nodes: Sequence[Any]
    scope: BodyScope
    variables: Mapping[str, VariableOptions] = field(default_factory=dict)
    result: Any = None


class FlowKind(Protocol):
    """A node kind as the flow sees it; `flowpod.nodes.kind.Kind` describes each attribute."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> type[NodeOptions]: ...
    @property
    def check(self) -> Callable[[Any, NodeCheck], None]: ...
    @property
    def branches(self) -> Callable[[Any], Sequence[str]]: ...
    @property
    def body(self) -> Callable[[Any], BodyOptions] | None: ...
    @property
    def writes_to(self) -> Callable[[Any], str] | None: ...
    @property
    def takes_secrets(self) -> bool: ...


FlowKinds = Mapping[str, FlowKind]
