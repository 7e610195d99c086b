"""Stores traces, in a thread of its own: runs only queue their spans."""

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import NamedTuple

import orjson
from opentelemetry.trace import SpanContext, StatusCode

from flowpod.jsonable import dumps
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.span_record import EndedSpan
from flowpod.telemetry.span_redaction import attributes_of, may_leave, redact_span
from flowpod.telemetry.trace_store import Span, Summary, TraceStore

logger = logging.getLogger(__name__)

_BATCH_S = 0.2
_PRUNE_S = 60.0
_MAX_QUEUED_SPANS = 20_000
_MAX_QUEUED_BYTES = 100_000_000
_MAX_WAITING = 50_000  # spans of runs that have not ended
_MAX_REMEMBERED = 20_000  # spans of stored runs, which late spans may be below
_SUMMARY_CHARS = 4000  # of a run's input and output, in listings and for searches


class _Queued(NamedTuple):
    """A span and its row as JSON, which is b"" if it holds something that JSON cannot."""

    span: EndedSpan
    row: bytes


_Found = tuple[int, Sequence[_Queued]]
"""The spans of one run, with the id that the store gave it, 0 for a new one."""


class TraceWriter:
    """Stores each run with all its spans once its root span has ended.

    Spans that end later, in threads that outlive their run, are added to it. Spans are dropped and counted when the
    file cannot be written, or when more than `max_bytes` of them wait to be stored.
    """

    def __init__(
        self, store: TraceStore, metrics: Metrics, content: Content | None = None, max_bytes: int = _MAX_QUEUED_BYTES
    ) -> None:
        self.store = store
        self._content = content or Content()
        self._max_bytes = max_bytes
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._metrics = metrics
        metrics.spans_dropped(0, "store")  # an alert needs to see the zero before the first loss
        self._queue: SimpleQueue[tuple[_Queued, int] | threading.Event] = SimpleQueue()  # spans with their bytes
        self._flush = threading.Event()
        self._closing = False
        self._failing = False
        self._pruned = 0.0
        self._waiting: OrderedDict[int, list[_Queued]] = OrderedDict()  # by trace
        self._waiting_spans = 0
        self._stored: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._thread = threading.Thread(target=self._store_batches, name="flowpod-traces", daemon=True)
        self._thread.start()

    def take(self, span: EndedSpan) -> None:
        """Queue a span that has ended."""
        row = _encode_row(span)
        size = len(row) or len(dumps(_as_row(span)))
        with self._lock:
            fits = self._queue.qsize() < _MAX_QUEUED_SPANS and self._queued_bytes + size <= self._max_bytes
            if fits:
                self._queued_bytes += size
                self._queue.put((_Queued(span, row), size))
        if not fits:
            self._metrics.spans_dropped(1, "store")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Store every run that has ended by now."""
        done = threading.Event()
        self._queue.put(done)
        self._flush.set()
        return done.wait(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Store what has ended, and stop."""
        self._closing = True
        self.force_flush()

    def _store_batches(self) -> None:
        while not self._closing or self._queue.qsize():
            batch = [self._queue.get()]
            self._flush.wait(_BATCH_S)  # the more runs a transaction has, the less each costs
            self._flush.clear()
            batch += [self._queue.get() for _ in range(self._queue.qsize())]
            queued = [item for item in batch if not isinstance(item, threading.Event)]
            try:
                self._sort([span for span, _ in queued])
            except Exception:
                logger.exception("traces could not be stored")
            with self._lock:
                self._queued_bytes -= sum(size for _, size in queued)
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()

    def _sort(self, spans: Sequence[_Queued]) -> None:
        runs: list[list[_Queued]] = []
        late: dict[int, list[_Queued]] = {}
        for queued in spans:
            context, parent = queued.span.context, queued.span.parent
            if parent is None or queued.span.is_root:
                runs.append([queued, *self._take_below(context)])
            elif (number := self._stored.get((context.trace_id, parent.span_id))) is not None:
                late.setdefault(number, []).append(queued)
            else:
                self._waiting.setdefault(context.trace_id, []).append(queued)
                self._waiting_spans += 1
        while self._waiting_spans > _MAX_WAITING:
            _, dropped = self._waiting.popitem(last=False)
            self._waiting_spans -= len(dropped)
            self._metrics.spans_dropped(len(dropped), "store")
        self._store_all(runs, late)

    def _take_below(self, root: SpanContext) -> list[_Queued]:
        """Take the spans below `root` from the waiting ones; other runs may share its trace."""
        waiting = self._waiting.pop(root.trace_id, [])
        inside, count = {root.span_id}, -1
        parents = {queued.span.context.span_id: queued.span.parent.span_id for queued in waiting if queued.span.parent}
        while count != len(inside):
            count = len(inside)
            inside |= {span_id for span_id, parent in parents.items() if parent in inside}
        taken = [queued for queued in waiting if queued.span.context.span_id in inside]
        self._waiting_spans -= len(taken)
        if len(taken) < len(waiting):
            self._waiting[root.trace_id] = [q for q in waiting if q.span.context.span_id not in inside]
        return taken

    def _store_all(self, runs: Sequence[Sequence[_Queued]], late: dict[int, list[_Queued]]) -> None:
        try:
            if runs:
                self.store.create_folder()
                self._store_each(self._add, [(0, run) for run in runs])
            if late:
                self._store_each(self._extend, list(late.items()))
            if runs and (time.monotonic() - self._pruned > _PRUNE_S or self.store.is_full()):
                self._pruned = time.monotonic()
                self.store.prune(time.time_ns())
            self._failing = False
        except (sqlite3.Error, OSError) as error:
            if not self._failing:
                logger.warning("traces are not stored in %s: %s", self.store.path, error)
            self._failing = True
            self._metrics.spans_dropped(sum(map(len, runs)) + sum(map(len, late.values())), "store")

    def _store_each(self, store: Callable[[Sequence[_Found]], list[int]], found: Sequence[_Found]) -> None:
        """Store all in one transaction, or where one cannot be encoded, the others one by one."""
        try:
            numbers = store(found)
        except (sqlite3.Error, OSError):
            raise
        except Exception:
            if len(found) > 1:
                for single in found:
                    self._store_each(store, [single])
            else:
                logger.exception("a trace of %d spans could not be stored", len(found[0][1]))
                self._metrics.spans_dropped(len(found[0][1]), "store")
            return
        for number, (_, spans) in zip(numbers, found, strict=True):
            self._remember(number, spans)

    def _add(self, runs: Sequence[_Found]) -> list[int]:
        return self.store.add([_stored_run(run, self._content) for _, run in runs])

    def _extend(self, late: Sequence[_Found]) -> list[int]:
        self.store.extend(
            {number: [_as_row(redact_span(queued.span, self._content)) for queued in run] for number, run in late}
        )
        return [number for number, _ in late]

    def _remember(self, number: int, spans: Iterable[_Queued]) -> None:
        for queued in spans:
            self._stored[queued.span.context.trace_id, queued.span.context.span_id] = number
        while len(self._stored) > _MAX_REMEMBERED:
            self._stored.popitem(last=False)


def _stored_run(run: Sequence[_Queued], content: Content) -> tuple[Summary, bytes]:
    """Return a run's columns and its spans as JSON; the first span is its root."""
    spans = [queued.span for queued in run]
    encoded = b"[%b]" % b",".join([queued.row for queued in run])
    if all(queued.row for queued in run) and may_leave(encoded, spans, content):
        return _summary(spans), encoded
    spans = [redact_span(span, content) for span in spans]
    return _summary(spans), dumps([_as_row(span) for span in spans])


def _encode_row(span: EndedSpan) -> bytes:
    try:
        return orjson.dumps(_as_row(span))
    except TypeError:  # half an emoji, bytes, or an integer of more than 64 bits
        return b""


def _as_row(span: EndedSpan) -> Span:
    row: Span = {
        "span_id": f"{span.context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "message": span.status.description or "",
        "attributes": span.attributes,
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": attributes_of(event)}
            for event in span.events
        ],
    }
    if span.exchange is not None:
        row["exchange"] = tuple(span.exchange)
    return row


def _summary(spans: Sequence[EndedSpan]) -> Summary:
    root = spans[0]
    attributes = root.attributes
    failed = root.status.status_code is StatusCode.ERROR
    prompt, completion = map(sum, zip(*map(_usage, spans), strict=True))
    return Summary(
        trace_id=f"0x{root.context.trace_id:032x}",
        run_id=str(attributes.get("flowpod.run.id", "")),
        request_id=str(attributes.get("flowpod.request.id", "")),
        session_id=str(attributes.get("session.id", "")),
        user_id=str(attributes.get("user.id", "")),
        name=root.name,
        protocol=str(attributes.get("flowpod.protocol", "")),
        started_ns=root.start_time,
        duration_ns=root.end_time - root.start_time,
        status=str(attributes.get("flowpod.run.status") or ("Failed" if failed else "Completed")),
        error=root.status.description or "",
        input=str(attributes.get("input.value", ""))[:_SUMMARY_CHARS],
        output=str(attributes.get("output.value", ""))[:_SUMMARY_CHARS],
        prompt_tokens=prompt,
        completion_tokens=completion,
    )


def _usage(span: EndedSpan) -> tuple[int, int]:
    if span.exchange is not None and span.exchange.usage is not None:
        prompt, completion = span.exchange.usage
        return prompt, completion
    names = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    prompt, completion = (count if isinstance(count := span.attributes.get(name), int) else 0 for name in names)
    return prompt, completion
