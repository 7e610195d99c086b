"""The metrics of a process: one set of OpenTelemetry instruments, for Prometheus and the exporters alike.

Names and units follow OpenTelemetry's conventions; those of model calls are the GenAI conventions'. Attributes have few
values each: what callers can choose freely counts as "other" after the first fifty values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, NoOpMeterProvider, Observation
from opentelemetry.util.types import AttributeValue

from flowpod import __version__

SCOPE = "flowpod"
OTHER = "other"

_MAX_VALUES = 50
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# The boundaries that the GenAI conventions give.
_MODEL_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

Attributes = dict[str, AttributeValue]


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
    """Counts and times; without a provider it does nothing."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._meter = meter = (provider or NoOpMeterProvider()).get_meter(SCOPE, __version__)
        self._model, self._code = LimitedValues(), LimitedValues()
        counter, level, histogram = meter.create_counter, meter.create_up_down_counter, partial(_histogram, meter)
        self._runs = counter("flowpod.runs", "{run}", "Runs that ended.")
        self._active_runs = level("flowpod.run.active", "{run}", "Runs in progress.")
        self._active_streams = level("flowpod.stream.active", "{stream}", "Streamed responses in progress.")
        self._spans_dropped = counter(
            "flowpod.trace.dropped_spans", "{span}", "Spans that were neither stored nor exported."
        )
        self._run_seconds = histogram("flowpod.run.duration", _SECONDS, "Duration of runs.")
        self._node_seconds = histogram("flowpod.node.duration", _SECONDS, "Duration of nodes.")
        self._model_seconds = histogram("gen_ai.client.operation.duration", _MODEL_SECONDS, "Duration of model calls.")
        self._first_chunk = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            _MODEL_SECONDS,
            "Time until the first chunk of a streamed response.",
        )
        self._tokens = histogram("gen_ai.client.token.usage", _TOKENS, "Tokens that models counted.", "{token}")
        self._loop_lag = histogram("flowpod.event_loop.lag", _SHORT_SECONDS, "Delay of the event loop.")
        self.history = HistoryMetrics(meter)
        # A rate or an alert needs to see the zero before the first increase.
        self._active_runs.add(0)
        self._active_streams.add(0)

    def run_began(self) -> None:
        """Count a run in progress."""
        self._active_runs.add(1)

    def run_ended(self, status: str, protocol: str, seconds: float) -> None:
        """Count and time a run that has ended."""
        self._active_runs.add(-1)
        attributes: Attributes = {"flowpod.run.status": status, "flowpod.protocol": protocol}
        self._runs.add(1, attributes)
        self._run_seconds.record(seconds, attributes)

    def node_ended(self, name: str, kind: str, status: str, seconds: float) -> None:
        """Time a node."""
        self._node_seconds.record(
            seconds, {"flowpod.node.name": name, "flowpod.node.type": kind, "flowpod.node.status": status}
        )

    def model_attributes(self, operation: str, provider: str, model: str) -> Attributes:
        """Return the attributes of a model call's metrics."""
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": self._model(model),
        }

    def first_chunk_received(self, attributes: Attributes, seconds: float) -> None:
        """Time the first chunk of a streamed response."""
        self._first_chunk.record(seconds, attributes)

    def model_call_ended(self, attributes: Attributes, seconds: float, error: str) -> None:
        """Time a model call; `error` is the code of its failure, or ""."""
        self._model_seconds.record(seconds, attributes | {"error.type": self._code(error)} if error else attributes)

    def tokens_used(self, attributes: Attributes, prompt: int, completion: int) -> None:
        """Count the tokens of a model call."""
        self._tokens.record(prompt, attributes | {"gen_ai.token.type": "input"})
        self._tokens.record(completion, attributes | {"gen_ai.token.type": "output"})

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a streamed response as in progress while the block runs."""
        self._active_streams.add(1)
        try:
            yield
        finally:
            self._active_streams.add(-1)

    def event_loop_lagged(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self._loop_lag.record(seconds)

    def spans_dropped(self, count: int, destination: str) -> None:
        """Count spans that did not reach their destination: the trace store or an exporter."""
        self._spans_dropped.add(count, {"flowpod.destination": destination})

    def observe_abandoned_threads(self, count: Callable[[], int]) -> None:
        """Call `count` at each reading for the number of threads that were left in code that does not return."""

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(count())

        self._meter.create_observable_up_down_counter(
            "flowpod.thread.abandoned", [observe], "{thread}", "Threads left in code that does not return."
        )


class HistoryMetrics:
    """The metrics of writes to the chat history."""

    def __init__(self, meter: Meter) -> None:
        self._seconds = _histogram(
            meter, "flowpod.history.write.duration", _SHORT_SECONDS, "Duration of storing a turn."
        )
        self._deferred = meter.create_counter(
            "flowpod.history.deferred", "{turn}", "Turns that were stored after the end of their run."
        )
        self._lost = meter.create_counter("flowpod.history.lost", "{turn}", "Turns that could not be stored.")
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


def _histogram(meter: Meter, name: str, bounds: Sequence[float], description: str, unit: str = "s") -> Histogram:
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)
