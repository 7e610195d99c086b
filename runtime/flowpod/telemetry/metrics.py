"""The metrics of a process: one set of instruments, for Prometheus and the exporters alike.

Names and units follow OpenTelemetry's conventions; those of model calls are the GenAI conventions'. Labels have few
values each: what callers can choose freely counts as "other" after the first fifty values.
"""

from collections.abc import Callable

from flowpod.telemetry.instruments import Instruments, LabelValues

SCOPE = "flowpod"
"""OpenTelemetry's name for the source of the spans and metrics."""

OTHER = "other"

_MAX_VALUES = 50
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# The boundaries that the GenAI conventions give.
_MODEL_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

_RUN = ("flowpod.run.status", "flowpod.protocol")
_NODE = ("flowpod.node.name", "flowpod.node.type", "flowpod.node.status")
_MODEL = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")


class LimitedValues:
    """Returns the first values that it is given as they are, and any more of them as "other"."""

    def __init__(self, most: int = _MAX_VALUES) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


class Metrics:
    """Counts and times."""

    def __init__(self) -> None:
        self.instruments = instruments = Instruments()
        counter, level, histogram = instruments.counter, instruments.level, instruments.histogram
        self._model, self._code = LimitedValues(), LimitedValues()
        self._runs = counter("flowpod.runs", "{run}", "Runs that ended.", _RUN)
        self._active_runs = level("flowpod.run.active", "{run}", "Runs in progress.")
        self._active_streams = level("flowpod.stream.active", "{stream}", "Streamed responses in progress.")
        self._spans_dropped = counter(
            "flowpod.trace.dropped_spans",
            "{span}",
            "Spans that were neither stored nor exported.",
            ("flowpod.destination",),
        )
        self._run_seconds = histogram("flowpod.run.duration", _SECONDS, "Duration of runs.", _RUN)
        self._node_seconds = histogram("flowpod.node.duration", _SECONDS, "Duration of nodes.", _NODE)
        self._model_seconds = histogram(
            "gen_ai.client.operation.duration", _MODEL_SECONDS, "Duration of model calls.", (*_MODEL, "error.type")
        )
        self._first_chunk = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            _MODEL_SECONDS,
            "Time until the first chunk of a streamed response.",
            _MODEL,
        )
        self._tokens = histogram(
            "gen_ai.client.token.usage",
            _TOKENS,
            "Tokens that models counted.",
            (*_MODEL, "gen_ai.token.type"),
            "{token}",
        )
        self._loop_lag = histogram("flowpod.event_loop.lag", _SHORT_SECONDS, "Delay of the event loop.")
        self.history = HistoryMetrics(instruments)
        # A rate or an alert needs to see the zero before the first increase.
        self._active_runs.add(0)
        self._active_streams.add(0)

    def run_began(self) -> None:
        """Count a run in progress."""
        self._active_runs.add(1)

    def run_ended(self, status: str, protocol: str, seconds: float) -> None:
        """Count and time a run that has ended."""
        self._active_runs.add(-1)
        labels = (status, protocol)
        self._runs.add(1, labels)
        self._run_seconds.record(seconds, labels)

    def node_ended(self, name: str, kind: str, status: str, seconds: float) -> None:
        """Time a node."""
        self._node_seconds.record(seconds, (name, kind, status))

    def model_labels(self, operation: str, provider: str, model: str) -> LabelValues:
        """Return the labels of a model call's metrics."""
        return (operation, provider, self._model(model))

    def first_chunk_received(self, labels: LabelValues, seconds: float) -> None:
        """Time the first chunk of a streamed response."""
        self._first_chunk.record(seconds, labels)

    def model_call_ended(self, labels: LabelValues, seconds: float, error: str) -> None:
        """Time a model call; `error` is the code of its failure, or ""."""
        self._model_seconds.record(seconds, (*labels, self._code(error)) if error else labels)

    def tokens_used(self, labels: LabelValues, prompt: int, completion: int) -> None:
        """Count the tokens of a model call."""
        self._tokens.record(prompt, (*labels, "input"))
        self._tokens.record(completion, (*labels, "output"))

    def stream_began(self) -> None:
        """Count a streamed response in progress."""
        self._active_streams.add(1)

    def stream_ended(self) -> None:
        """Count a streamed response as no longer in progress."""
        self._active_streams.add(-1)

    def event_loop_lagged(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self._loop_lag.record(seconds)

    def spans_dropped(self, count: int, destination: str) -> None:
        """Count spans that did not reach their destination: the trace store or an exporter."""
        self._spans_dropped.add(count, (destination,))

    def observe_abandoned_threads(self, count: Callable[[], int]) -> None:
        """Call `count` at each reading for the number of threads that were left in code that does not return."""
        self.instruments.observe_level(
            "flowpod.thread.abandoned", "{thread}", "Threads left in code that does not return.", count
        )


class HistoryMetrics:
    """The metrics of writes to the chat history."""

    def __init__(self, instruments: Instruments) -> None:
        self._seconds = instruments.histogram(
            "flowpod.history.write.duration", _SHORT_SECONDS, "Duration of storing a turn."
        )
        self._deferred = instruments.counter(
            "flowpod.history.deferred", "{turn}", "Turns that were stored after the end of their run."
        )
        self._lost = instruments.counter("flowpod.history.lost", "{turn}", "Turns that could not be stored.")
        self._deferred.add(0)
        self._lost.add(0)

    def written(self, seconds: float) -> None:
        """Time a turn that was stored."""
        self._seconds.record(seconds)

    def deferred(self) -> None:
        """Count a turn that is stored after the end of its run."""
        self._deferred.add(1)

    def lost(self) -> None:
        """Count a turn that could not be stored."""
        self._lost.add(1)
