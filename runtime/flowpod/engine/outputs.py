"""The outputs of one run: their values so far, and their events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowpod.engine.events import EventChannel, NodeRun, OutputStatus, RunOutput
from flowpod.errors import NodeError
from flowpod.flow.model import Flow
from flowpod.flow.references import Scope
from flowpod.flow.wiring import Wiring
from flowpod.jsonable import as_text
from flowpod.models.base import Chunk

_EMPTY = Chunk("")


@dataclass(slots=True)
class _Streamed:
    """An output made of the texts of several nodes, in order: a text follows once the nodes before it are settled.

    Chunks that come early are `held` until then.
    """

    name: str
    nodes: tuple[str, ...]
    turn: int = 0
    settled: set[str] = field(default_factory=set)
    held: dict[str, list[tuple[NodeRun, Chunk]]] = field(default_factory=dict)
    held_chars: int = 0
    texts: list[str] = field(default_factory=list)
    is_open: bool = False
    last_run: NodeRun | None = None


class Outputs:
    """Emits RunOutput events for the outputs, and keeps their values.

    For each output, at most `limit` characters are held back to keep its segments in order.
    """

    def __init__(self, flow: Flow, wiring: Wiring, events: EventChannel, run_id: str, limit: int) -> None:
        self._flow = flow
        self._wiring = wiring
        self._events = events
        self._run_id = run_id
        self._limit = limit
        self._streams = {name: _Streamed(name, nodes) for name, nodes in wiring.segments.items()}
        self._missing = {name: set(nodes) for name, nodes in wiring.sources.items()}
        self.values: dict[str, Any] = {}

    def emit_constants(self, scope: Scope) -> None:
        """Emit the outputs that depend on no node."""
        for name, missing in self._missing.items():
            if not missing:
                self._put_whole(NodeRun(name), name, self._resolved(name, scope))

    def emit_late(self, scope: Scope) -> None:
        """Emit the outputs that have their final values only after the last node."""
        for name in self._wiring.late:
            self._put_whole(NodeRun(name), name, self._resolved(name, scope))

    def emit_chunk(self, run: NodeRun, chunk: Chunk) -> None:
        """Emit a chunk of the outputs that a node streams to; raises NodeError when too much is held back."""
        for name in self._wiring.feeds.get(run.node, ()):
            stream = self._streams[name]
            if stream.nodes[stream.turn] == run.node:
                self._emit(stream, run, chunk)
                continue
            stream.held.setdefault(run.node, []).append((run, chunk))
            stream.held_chars += chunk.size
            if stream.held_chars > self._limit:
                text = (
                    f"the output {name!r} holds back more than {self._limit} characters (FLOWPOD_MAX_OUTPUT_CHARS) "
                    f"until the node {stream.nodes[stream.turn]!r} ends"
                )
                raise NodeError(text, code="output_too_large")

    def whole_outputs(self, node: str, value: Any, scope: Scope) -> dict[str, Any]:
        """Return the outputs that are complete now that `node`, a node of the flow itself, has `value`.

        Raises NodeError that names an output whose reference does not resolve.
        """
        scope.outputs[node] = value
        found = {}
        for name, missing in self._missing.items():
            if missing == {node}:
                try:
                    found[name] = self._resolved(name, scope)
                except NodeError:
                    del scope.outputs[node]  # the node fails, so it has no value
                    raise
        return found

    def close_stream(self, run: NodeRun) -> None:
        """Record that the stream of a node is complete."""
        for name in self._wiring.feeds.get(run.node, ()):
            self._streams[name].last_run = run
            self._settle_segment(self._streams[name], run.node)

    def settle(self, run: NodeRun, value: Any, whole: Mapping[str, Any], *, streamed: bool) -> None:
        """Record that a node has ended with `value`, and emit the outputs that this makes `whole`."""
        if not streamed and self._flow.nodes[run.node].writes_to is not None:
            self.emit_chunk(run, Chunk(as_text(value)))
            self.close_stream(run)
        elif not streamed:
            for name in self._wiring.feeds.get(run.node, ()):
                self._put_whole(run, name, value)
        for name, missing in self._missing.items():
            missing.discard(run.node)
            if name in whole:
                self._put_whole(run, name, whole[name])

    def skip(self, node: str, scope: Scope) -> None:
        """Record that `node` has no value: it adds no text to streamed outputs, and is null in others."""
        run = NodeRun(node)
        for name in self._wiring.feeds.get(node, ()):
            stream = self._streams[name]
            if self._flow.nodes[node].writes_to is not None:
                stream.last_run = stream.last_run or run
                self._settle_segment(stream, node)
            else:
                self._put_whole(run, name, None)
        for name, missing in self._missing.items():
            if missing == {node}:
                self._put_whole(run, name, self._resolved(name, scope))
            missing.discard(node)

    def _resolved(self, name: str, scope: Scope) -> Any:
        try:
            return scope.resolve(self._flow.outputs[name].value)
        except LookupError as error:
            raise NodeError(f"outputs.{name}: {error.args[0]}", code="invalid_reference") from None

    def _settle_segment(self, stream: _Streamed, node: str) -> None:
        stream.settled.add(node)
        while stream.turn < len(stream.nodes) and stream.nodes[stream.turn] in stream.settled:
            stream.turn += 1
            if stream.turn == len(stream.nodes):
                self._close(stream)
                return
            for run, chunk in stream.held.pop(stream.nodes[stream.turn], ()):
                stream.held_chars -= chunk.size
                self._emit(stream, run, chunk)

    def _emit(self, stream: _Streamed, run: NodeRun, chunk: Chunk) -> None:
        self._open(stream, run)
        stream.last_run = run
        stream.texts.append(chunk.text)
        self._put_streamed(stream, run, "Streaming", chunk)

    def _open(self, stream: _Streamed, run: NodeRun) -> None:
        if not stream.is_open:
            stream.is_open = True
            self._put_streamed(stream, run, "Streaming")

    def _close(self, stream: _Streamed) -> None:
        assert stream.last_run is not None
        self._open(stream, stream.last_run)
        self.values[stream.name] = "".join(stream.texts)
        self._put_streamed(stream, stream.last_run, "Streaming")
        self._put_streamed(stream, stream.last_run, "Finished")

    def _put_streamed(self, stream: _Streamed, run: NodeRun, status: OutputStatus, chunk: Chunk = _EMPTY) -> None:
        name, text, reasoning, lengths = stream.name, chunk.text, chunk.reasoning, chunk.lengths
        self._events.put(RunOutput(self._run_id, run.node, run.id, name, text, True, status, reasoning, lengths))

    def _put_whole(self, run: NodeRun, name: str, value: Any) -> None:
        self.values[name] = value
        self._events.put(RunOutput(self._run_id, run.node, run.id, name, value, False, "Finished"))
