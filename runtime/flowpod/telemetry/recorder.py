"""From ended spans to stored runs, in a thread of its own: a run only queues its spans."""

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode

from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import redacted
from flowpod.telemetry.store import Span, Summary, TraceStore

logger = logging.getLogger(__name__)

_BATCH_S = 0.2
_PRUNE_S = 60.0
_MOST_QUEUED = 20_000
_MOST_QUEUED_CHARS = 100_000_000
_MOST_OPEN = 50_000  # spans of runs that have not ended
_MOST_REMEMBERED = 20_000  # spans of stored runs, below which late ones may come
_SHOWN = 4000  # characters of a run's input and output that a listing has, and a search finds


class TraceRecorder(SpanProcessor):
    """Stores each run with all its spans once its root span has ended.

    Spans that end later, of threads that were left behind, are added to it. When the file cannot be written, or spans
    come faster than they are stored, they are dropped and counted.
    """

    def __init__(
        self, store: TraceStore, metrics: Metrics, content: Content, most_chars: int = _MOST_QUEUED_CHARS
    ) -> None:
        self.store = store
        self._most_chars = most_chars
        self._queued_chars = 0
        self._lock = threading.Lock()
        self._content = content
        self._metrics = metrics
        metrics.spans_dropped(0, "store")  # an alert needs to see the zero from which a number rises
        self._queue: SimpleQueue[ReadableSpan | threading.Event] = SimpleQueue()
        self._hurry = threading.Event()
        self._closing = False
        self._failing = False
        self._pruned = 0.0
        self._open: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self._open_spans = 0
        self._stored: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="flowpod-traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        shown = redacted(span, self._content)
        size = _chars(shown)
        with self._lock:
            fits = self._queue.qsize() < _MOST_QUEUED and self._queued_chars + size <= self._most_chars
            if fits:
                self._queued_chars += size
                self._queue.put(shown)
        if not fits:
            self._metrics.spans_dropped(1, "store")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Store every run that has ended by now."""
        done = threading.Event()
        self._queue.put(done)
        self._hurry.set()
        return done.wait(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Store what has ended, and stop."""
        self._closing = True
        self.force_flush()

    def _work(self) -> None:
        while not self._closing or self._queue.qsize():
            batch = [self._queue.get()]
            self._hurry.wait(_BATCH_S)  # the more runs a transaction has, the less each costs
            self._hurry.clear()
            batch += [self._queue.get() for _ in range(self._queue.qsize())]
            spans = [item for item in batch if isinstance(item, ReadableSpan)]
            try:
                self._keep(spans)
            except Exception:
                logger.exception("traces could not be stored")
            with self._lock:
                self._queued_chars -= sum(map(_chars, spans))
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()

    def _keep(self, spans: Sequence[ReadableSpan]) -> None:
        runs: list[list[ReadableSpan]] = []
        late: dict[int, list[ReadableSpan]] = {}
        for span in spans:
            trace_id = _ids(span)[0]
            if span.parent is None or span.parent.is_remote:
                runs.append([span, *self._below(span)])
            elif (number := self._stored.get((trace_id, span.parent.span_id))) is not None:
                late.setdefault(number, []).append(span)
            else:
                self._open.setdefault(trace_id, []).append(span)
                self._open_spans += 1
        while self._open_spans > _MOST_OPEN:
            _, dropped = self._open.popitem(last=False)
            self._open_spans -= len(dropped)
            self._metrics.spans_dropped(len(dropped), "store")
        self._store_all(runs, late)

    def _below(self, root: ReadableSpan) -> list[ReadableSpan]:
        """Take the spans below `root` out of those that wait; other runs may share its trace."""
        trace_id, root_id = _ids(root)
        waiting = self._open.pop(trace_id, [])
        inside, count = {root_id}, -1
        parents = {_ids(span)[1]: span.parent.span_id for span in waiting if span.parent}
        while count != len(inside):
            count = len(inside)
            inside |= {span_id for span_id, parent in parents.items() if parent in inside}
        taken = [span for span in waiting if _ids(span)[1] in inside]
        self._open_spans -= len(taken)
        if len(taken) < len(waiting):
            self._open[trace_id] = [span for span in waiting if _ids(span)[1] not in inside]
        return taken

    def _store_all(self, runs: Sequence[Sequence[ReadableSpan]], late: dict[int, list[ReadableSpan]]) -> None:
        try:
            if runs:
                self.store.make_folder()
                self._add(runs)
            if late:
                self._extend(late)
            if runs and (time.monotonic() - self._pruned > _PRUNE_S or self.store.is_full()):
                self._pruned = time.monotonic()
                self.store.prune(time.time_ns())
            self._failing = False
        except (sqlite3.Error, OSError) as error:
            if not self._failing:
                logger.warning("traces are not stored in %s: %s", self.store.path, error)
            self._failing = True
            self._metrics.spans_dropped(sum(map(len, runs)) + sum(map(len, late.values())), "store")

    def _add(self, runs: Sequence[Sequence[ReadableSpan]]) -> None:
        try:
            numbers = self.store.add([(_summary(run[0], run), [_as_data(span) for span in run]) for run in runs])
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - a run that cannot be stored must not take the others with it
            if len(runs) == 1:
                self._lose(runs[0])
            else:
                for run in runs:
                    self._add([run])
            return
        for number, run in zip(numbers, runs, strict=True):
            self._remember(number, run)

    def _extend(self, late: Mapping[int, Sequence[ReadableSpan]]) -> None:
        try:
            self.store.extend({number: [_as_data(span) for span in spans] for number, spans in late.items()})
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - as above
            if len(late) == 1:
                self._lose(*late.values())
            else:
                for number, spans in late.items():
                    self._extend({number: spans})
            return
        for number, spans in late.items():
            self._remember(number, spans)

    def _lose(self, spans: Sequence[ReadableSpan]) -> None:
        logger.exception("a trace of %d spans could not be stored", len(spans))
        self._metrics.spans_dropped(len(spans), "store")

    def _remember(self, number: int, spans: Iterable[ReadableSpan]) -> None:
        self._stored.update(((_ids(span)), number) for span in spans)
        while len(self._stored) > _MOST_REMEMBERED:
            self._stored.popitem(last=False)


def _ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def _chars(span: ReadableSpan) -> int:
    """Return about how many characters a span holds."""
    held = [span.attributes or {}, *(event.attributes or {} for event in span.events)]
    return sum(len(value) for attributes in held for value in attributes.values() if isinstance(value, str))


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
        "attributes": dict(span.attributes or {}),
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
            for event in span.events
        ],
    }


def _summary(root: ReadableSpan, spans: Sequence[ReadableSpan]) -> Summary:
    facts: dict[str, Any] = dict(root.attributes or {})
    failed = root.status.status_code is StatusCode.ERROR
    prompt, completion = (
        sum(count for span in spans if isinstance(count := (span.attributes or {}).get(name), int))
        for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    )
    return Summary(
        trace_id=f"0x{_ids(root)[0]:032x}",
        run_id=str(facts.get("flowpod.run.id", "")),
        request_id=str(facts.get("flowpod.request.id", "")),
        session_id=str(facts.get("session.id", "")),
        user_id=str(facts.get("user.id", "")),
        name=root.name,
        protocol=str(facts.get("flowpod.protocol", "")),
        started_ns=root.start_time or 0,
        duration_ns=(root.end_time or 0) - (root.start_time or 0),
        status=str(facts.get("flowpod.run.status") or ("Failed" if failed else "Completed")),
        error=root.status.description or "",
        input=str(facts.get("input.value", ""))[:_SHOWN],
        output=str(facts.get("output.value", ""))[:_SHOWN],
        prompt_tokens=prompt,
        completion_tokens=completion,
    )
