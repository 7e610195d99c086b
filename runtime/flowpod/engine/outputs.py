"""The outputs of one run: what each is so far, and the events that say so."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowpod.engine.events import EventChannel, RunOutput
from flowpod.errors import NodeError
from flowpod.flow.model import Flow
from flowpod.flow.references import Scope
from flowpod.flow.wiring import Wiring
from flowpod.jsonable import as_text
from flowpod.models.base import Chunk


@dataclass(slots=True)
class _Streamed:
    """An output made of the texts of nodes, in order: one node's turn comes when those before it are settled.

    What comes early is `held` until then, as (node run id, chunk).
    """

    name: str
    nodes: tuple[str, ...]
    turn: int = 0
    settled: set[str] = field(default_factory=set)
    held: dict[str, list[tuple[str, Chunk]]] = field(default_factory=dict)
    held_chars: int = 0
    texts: list[str] = field(default_factory=list)
    is_open: bool = False
    last_run_id: str = ""


class Outputs:
    """Puts RunOutput events for the outputs that nodes make, and keeps the values.

    Text that is held back, so that an output's parts come in order, may be `limit` characters for each output.
    """

    def __init__(self, flow: Flow, wiring: Wiring, events: EventChannel, run_id: str, limit: int) -> None:
        self._flow = flow
        self._wiring = wiring
        self._events = events
        self._run_id = run_id
        self._limit = limit
        self._streams = {name: _Streamed(name, nodes) for name, nodes in wiring.segments.items()}
        self._missing = {name: set(nodes) for name, nodes in wiring.parts.items()}
        self.values: dict[str, Any] = {}

    def node_run_id(self, name: str) -> str:
        """Return a new id of a node's run: the run's, the name and a uuid."""
        return f"{self._run_id}_{name}_{uuid.uuid4()}"

    def put_constant(self, scope: Scope) -> None:
        """Put the outputs that depend on no node."""
        for name, missing in self._missing.items():
            if not missing:
                self._put_whole(self.node_run_id(name), name, self._resolved(name, scope))

    def put_late(self, scope: Scope) -> None:
        """Put the outputs that are what they are when all nodes have ended."""
        for name in self._wiring.late:
            self._put_whole(self.node_run_id(name), name, self._resolved(name, scope))

    def put_chunk(self, node: str, run_id: str, chunk: Chunk) -> None:
        """Put a chunk of the outputs that `node` streams to; raises NodeError when too much text is held back."""
        for name in self._wiring.feeds.get(node, ()):
            stream = self._streams[name]
            if stream.nodes[stream.turn] == node:
                self._emit(stream, run_id, chunk)
                continue
            stream.held.setdefault(node, []).append((run_id, chunk))
            stream.held_chars += len(chunk.text)
            if stream.held_chars > self._limit:
                text = (
                    f"the output {name!r} holds back more than {self._limit} characters (FLOWPOD_MAX_OUTPUT_CHARS) "
                    f"until the node {stream.nodes[stream.turn]!r} ends"
                )
                raise NodeError(text, code="output_too_large")

    def of_node(self, node: str, value: Any, scope: Scope) -> dict[str, Any]:
        """Return the values of the outputs that are whole now that `node`, a node of the flow itself, has `value`.

        Raises NodeError that names the output whose reference finds nothing.
        """
        scope.outputs[node] = value
        found = {}
        for name, missing in self._missing.items():
            if missing == {node}:
                try:
                    found[name] = scope.resolve(self._flow.outputs[name].value)
                except LookupError as error:
                    del scope.outputs[node]  # it fails by this, and has no value
                    raise NodeError(f"outputs.{name}: {error.args[0]}", code="invalid_reference") from None
        return found

    def close_stream(self, node: str, run_id: str) -> None:
        """Take in that all of what `node` streams has been put."""
        for name in self._wiring.feeds.get(node, ()):
            self._streams[name].last_run_id = run_id
            self._settle_part(self._streams[name], node)

    def settle(self, node: str, run_id: str, value: Any, whole: Mapping[str, Any], *, streamed: bool) -> None:
        """Take in that `node` has ended with `value`, and put the outputs that are `whole` by that."""
        if not streamed and self._flow.nodes[node].writes_to is not None:
            self.put_chunk(node, run_id, Chunk(as_text(value)))
            self.close_stream(node, run_id)
        elif not streamed:
            for name in self._wiring.feeds.get(node, ()):
                self._put_whole(run_id, name, value)
        for name, missing in self._missing.items():
            missing.discard(node)
            if name in whole:
                self._put_whole(run_id, name, whole[name])

    def skip(self, node: str, scope: Scope) -> None:
        """Take in that `node` has no value: it is no part of what it would have streamed, and null elsewhere."""
        run_id = self.node_run_id(node)
        for name in self._wiring.feeds.get(node, ()):
            stream = self._streams[name]
            if self._flow.nodes[node].writes_to is not None:
                stream.last_run_id = stream.last_run_id or run_id
                self._settle_part(stream, node)
            else:
                self._put_whole(run_id, name, None)
        for name, missing in self._missing.items():
            if missing == {node}:
                self._put_whole(run_id, name, self._resolved(name, scope))
            missing.discard(node)

    def _resolved(self, name: str, scope: Scope) -> Any:
        try:
            return scope.resolve(self._flow.outputs[name].value)
        except LookupError as error:
            raise NodeError(f"outputs.{name}: {error.args[0]}", code="invalid_reference") from None

    def _settle_part(self, stream: _Streamed, node: str) -> None:
        stream.settled.add(node)
        while stream.turn < len(stream.nodes) and stream.nodes[stream.turn] in stream.settled:
            stream.turn += 1
            if stream.turn == len(stream.nodes):
                self._close(stream)
                return
            for run_id, chunk in stream.held.pop(stream.nodes[stream.turn], ()):
                stream.held_chars -= len(chunk.text)
                self._emit(stream, run_id, chunk)

    def _emit(self, stream: _Streamed, run_id: str, chunk: Chunk) -> None:
        self._open(stream, run_id)
        stream.last_run_id = run_id
        stream.texts.append(chunk.text)
        self._events.put(RunOutput(run_id, stream.name, chunk.text, True, "Streaming", chunk.reasoning))

    def _open(self, stream: _Streamed, run_id: str) -> None:
        if not stream.is_open:
            stream.is_open = True
            self._events.put(RunOutput(run_id, stream.name, "", True, "Streaming"))

    def _close(self, stream: _Streamed) -> None:
        run_id = stream.last_run_id
        self._open(stream, run_id)
        self.values[stream.name] = "".join(stream.texts)
        self._events.put(RunOutput(run_id, stream.name, "", True, "Streaming"))
        self._events.put(RunOutput(run_id, stream.name, "", True, "Finished"))

    def _put_whole(self, run_id: str, name: str, value: Any) -> None:
        self.values[name] = value
        self._events.put(RunOutput(run_id, name, value, False, "Finished"))
