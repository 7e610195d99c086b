"""The metrics of a process: one set of OpenTelemetry instruments, whoever reads them.

Names and units follow OpenTelemetry's conventions; those of model calls are the GenAI conventions'. Attributes have few
values each: what a caller can choose freely is counted as "other" once there are too many of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeterProvider, Observation
from opentelemetry.util.types import AttributeValue

from flowpod import __version__

SCOPE = "flowpod"
OTHER = "other"

_MOST_VALUES = 50
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# The boundaries that the GenAI conventions give.
_MODEL_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

Attributes = dict[str, AttributeValue]


class Bounded:
    """Lets the first values that it meets pass, and makes the rest one."""

    def __init__(self, most: int = _MOST_VALUES) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return `value`, or "other" when there have been too many different ones."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


class Metrics:
    """What is counted and timed; without a provider nothing is kept."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        meter = (provider or NoOpMeterProvider()).get_meter(SCOPE, __version__)
        self._meter = meter
        self._model, self._code = Bounded(), Bounded()
        self._runs = meter.create_counter("flowpod.runs", "{run}", "Runs that ended.")
        self._run_seconds = meter.create_histogram(
            "flowpod.run.duration", "s", "How long runs took.", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._active_runs = meter.create_up_down_counter("flowpod.run.active", "{run}", "Runs in progress.")
        self._active_streams = meter.create_up_down_counter(
            "flowpod.stream.active", "{stream}", "Streamed responses in progress."
        )
        self._node_seconds = meter.create_histogram(
            "flowpod.node.duration", "s", "How long nodes took.", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._model_seconds = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "How long calls of models took.",
            explicit_bucket_boundaries_advisory=_MODEL_SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "How long models took to the first chunk of a streamed answer.",
            explicit_bucket_boundaries_advisory=_MODEL_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens that models counted.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._loop_lag = meter.create_histogram(
            "flowpod.event_loop.lag",
            "s",
            "How late the event loop woke up a task that slept.",
            explicit_bucket_boundaries_advisory=_SHORT_SECONDS,
        )
        self._spans_dropped = meter.create_counter(
            "flowpod.trace.dropped_spans", "{span}", "Spans that were lost before they were stored or exported."
        )
        self.history = HistoryMetrics(provider or NoOpMeterProvider())
        # A rate or an alert needs to see the zero from which a number rises.
        self._active_runs.add(0)
        self._active_streams.add(0)

    def run_began(self) -> None:
        """Count a run that is in progress."""
        self._active_runs.add(1)

    def run_ended(self, status: str, protocol: str, seconds: float) -> None:
        """Count a run that began, and ended as `status` after `seconds`."""
        self._active_runs.add(-1)
        attributes: Attributes = {"flowpod.run.status": status, "flowpod.protocol": protocol}
        self._runs.add(1, attributes)
        self._run_seconds.record(seconds, attributes)

    def node_ended(self, name: str, kind: str, status: str, seconds: float) -> None:
        """Time a node of a flow."""
        self._node_seconds.record(
            seconds, {"flowpod.node.name": name, "flowpod.node.type": kind, "flowpod.node.status": status}
        )

    def model_called(self, operation: str, provider: str, model: str) -> Attributes:
        """Return the attributes under which a call of a model is counted."""
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": self._model(model),
        }

    def model_began_to_answer(self, attributes: Attributes, seconds: float) -> None:
        """Time the first chunk of a streamed answer."""
        self._first_chunk.record(seconds, attributes)

    def model_ended(self, attributes: Attributes, seconds: float, error: str) -> None:
        """Time a call of a model; `error` is the code of its failure, or ""."""
        self._model_seconds.record(seconds, attributes | {"error.type": self._code(error)} if error else attributes)

    def tokens_used(self, attributes: Attributes, prompt: int, completion: int) -> None:
        """Count the tokens of a call of a model."""
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

    def loop_was_late(self, seconds: float) -> None:
        """Note how late the event loop was."""
        self._loop_lag.record(seconds)

    def spans_dropped(self, count: int, place: str) -> None:
        """Count spans that were lost on their way to `place`, the trace store or an exporter."""
        self._spans_dropped.add(count, {"flowpod.destination": place})

    def observe_abandoned_threads(self, count: Callable[[], int]) -> None:
        """Read `count`, the threads that were left behind in code that does not return, at every reading."""

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(count())

        self._meter.create_observable_up_down_counter(
            "flowpod.thread.abandoned", [observe], "{thread}", "Threads left behind in code that does not return."
        )


class HistoryMetrics:
    """What the chat history tells of its writes."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(SCOPE, __version__)
        self._seconds = meter.create_histogram(
            "flowpod.history.write.duration",
            "s",
            "How long turns took to be stored.",
            explicit_bucket_boundaries_advisory=_SHORT_SECONDS,
        )
        self._deferred = meter.create_counter(
            "flowpod.history.deferred", "{turn}", "Turns that were not stored before the end of their run was told."
        )
        self._lost = meter.create_counter("flowpod.history.lost", "{turn}", "Turns that could not be stored.")
        self._deferred.add(0)
        self._lost.add(0)

    def written(self, seconds: float) -> None:
        """Time a turn that was stored."""
        self._seconds.record(seconds)

    def deferred(self) -> None:
        """Count a turn whose writing went on after its run."""
        self._deferred.add(1)

    def lost(self) -> None:
        """Count a turn that is given up."""
        self._lost.add(1)
