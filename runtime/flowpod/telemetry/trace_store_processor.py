"""The span processor that stores traces, in a thread of its own: runs only queue their spans."""

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode

from flowpod.jsonable import dumps
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.span_redaction import attributes_of
from flowpod.telemetry.trace_store import Span, Summary, TraceStore

logger = logging.getLogger(__name__)

_BATCH_S = 0.2
_PRUNE_S = 60.0
_MAX_QUEUED_SPANS = 20_000
_MAX_QUEUED_BYTES = 100_000_000
_MAX_WAITING = 50_000  # spans of runs that have not ended
_MAX_REMEMBERED = 20_000  # spans of stored runs, which late spans may be below
_SUMMARY_CHARS = 4000  # of a run's input and output, in listings and for searches

_Found = tuple[int, Sequence[ReadableSpan]]
"""The spans of one run, with the id that the store gave it, 0 for a new one."""


class TraceStoreProcessor(SpanProcessor):
    """Stores each run with all its spans once its root span has ended.

    Spans that end later, in threads that outlive their run, are added to it. Spans are dropped and counted when the
    file cannot be written, or when more than `max_bytes` of them wait to be stored.
    """

    def __init__(self, store: TraceStore, metrics: Metrics, max_bytes: int = _MAX_QUEUED_BYTES) -> None:
        self.store = store
        self._max_bytes = max_bytes
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._metrics = metrics
        metrics.spans_dropped(0, "store")  # an alert needs to see the zero before the first loss
        self._queue: SimpleQueue[tuple[ReadableSpan, int] | threading.Event] = SimpleQueue()  # spans with their bytes
        self._flush = threading.Event()
        self._closing = False
        self._failing = False
        self._pruned = 0.0
        self._waiting: OrderedDict[int, list[ReadableSpan]] = OrderedDict()  # by trace
        self._waiting_spans = 0
        self._stored: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._thread = threading.Thread(target=self._store_batches, name="flowpod-traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        size = _bytes(span)
        with self._lock:
            fits = self._queue.qsize() < _MAX_QUEUED_SPANS and self._queued_bytes + size <= self._max_bytes
            if fits:
                self._queued_bytes += size
                self._queue.put((span, size))
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

    def _sort(self, spans: Sequence[ReadableSpan]) -> None:
        runs: list[list[ReadableSpan]] = []
        late: dict[int, list[ReadableSpan]] = {}
        for span in spans:
            trace_id = _ids(span)[0]
            if span.parent is None or span.parent.is_remote:
                runs.append([span, *self._take_below(span)])
            elif (number := self._stored.get((trace_id, span.parent.span_id))) is not None:
                late.setdefault(number, []).append(span)
            else:
                self._waiting.setdefault(trace_id, []).append(span)
                self._waiting_spans += 1
        while self._waiting_spans > _MAX_WAITING:
            _, dropped = self._waiting.popitem(last=False)
            self._waiting_spans -= len(dropped)
            self._metrics.spans_dropped(len(dropped), "store")
        self._store_all(runs, late)

    def _take_below(self, root: ReadableSpan) -> list[ReadableSpan]:
        """Take the spans below `root` from the waiting ones; other runs may share its trace."""
        trace_id, root_id = _ids(root)
        waiting = self._waiting.pop(trace_id, [])
        inside, count = {root_id}, -1
        parents = {_ids(span)[1]: span.parent.span_id for span in waiting if span.parent}
        while count != len(inside):
            count = len(inside)
            inside |= {span_id for span_id, parent in parents.items() if parent in inside}
        taken = [span for span in waiting if _ids(span)[1] in inside]
        self._waiting_spans -= len(taken)
        if len(taken) < len(waiting):
            self._waiting[trace_id] = [span for span in waiting if _ids(span)[1] not in inside]
        return taken

    def _store_all(self, runs: Sequence[Sequence[ReadableSpan]], late: dict[int, list[ReadableSpan]]) -> None:
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
        return self.store.add([(_summary(run[0], run), [_as_data(span) for span in run]) for _, run in runs])

    def _extend(self, late: Sequence[_Found]) -> list[int]:
        self.store.extend({number: [_as_data(span) for span in spans] for number, spans in late})
        return [number for number, _ in late]

    def _remember(self, number: int, spans: Iterable[ReadableSpan]) -> None:
        self._stored.update(((_ids(span)), number) for span in spans)
        while len(self._stored) > _MAX_REMEMBERED:
            self._stored.popitem(last=False)


def _ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def _bytes(span: ReadableSpan) -> int:
    return len(dumps([attributes_of(span), *map(attributes_of, span.events)]))


def _as_data(span: ReadableSpan) -> Span:
    return {
        "span_id": f"{_ids(span)[1]:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "message": span.status.description or "",
        "attributes": attributes_of(span),
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": attributes_of(event)}
            for event in span.events
        ],
    }


def _summary(root: ReadableSpan, spans: Sequence[ReadableSpan]) -> Summary:
    attributes = attributes_of(root)
    failed = root.status.status_code is StatusCode.ERROR
    prompt, completion = (
        sum(count for span in spans if isinstance(count := attributes_of(span).get(name), int))
        for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    )
    return Summary(
        trace_id=f"0x{_ids(root)[0]:032x}",
        run_id=str(attributes.get("flowpod.run.id", "")),
        request_id=str(attributes.get("flowpod.request.id", "")),
        session_id=str(attributes.get("session.id", "")),
        user_id=str(attributes.get("user.id", "")),
        name=root.name,
        protocol=str(attributes.get("flowpod.protocol", "")),
        started_ns=root.start_time or 0,
        duration_ns=(root.end_time or 0) - (root.start_time or 0),
        status=str(attributes.get("flowpod.run.status") or ("Failed" if failed else "Completed")),
        error=root.status.description or "",
        input=str(attributes.get("input.value", ""))[:_SUMMARY_CHARS],
        output=str(attributes.get("output.value", ""))[:_SUMMARY_CHARS],
        prompt_tokens=prompt,
        completion_tokens=completion,
    )
