"""Counters and histograms for the measurements of every run: OpenTelemetry's own cost ten times as much.

An instrument adds up what was measured since the last reading. A reading adds that to the sums of every reader, so that
one can read totals while another reads what is new.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from threading import RLock
from time import time_ns
from typing import Generic, TypeVar

from flowpod.telemetry.families import Family, HistogramPoint, Kind, Labels

LabelValues = tuple[str, ...]
"""The values of an instrument's labels, in the order of their names. The last ones may be left out: they are absent."""

Described = tuple[str, Kind, str, str]
Read = Callable[[], dict[str, Family]]
"""Returns the current readings by name."""

_T = TypeVar("_T")


class _Instrument(Generic[_T]):
    """An instrument, and its measurements since the last reading by label values."""

    def __init__(self, described: Described, labels: Sequence[str], lock: RLock) -> None:
        self._described = described
        self._labels = labels
        self._lock = lock  # threads measure too, and `+=` is not atomic
        self._recent: dict[LabelValues, _T] = {}
        self._started: dict[LabelValues, int] = {}

    def _start(self, values: LabelValues, point: _T) -> None:
        self._recent[values] = point
        self._started[values] = time_ns()

    def _take(self) -> tuple[dict[Labels, _T], dict[Labels, int]]:
        """Return the measurements and their start, and forget them; the caller holds the lock."""
        recent, started = self._recent, self._started
        self._recent, self._started = {}, {}
        labels = {values: tuple(zip(self._labels, values, strict=False)) for values in recent}
        return (
            {labels[values]: point for values, point in recent.items()},
            {labels[values]: at for values, at in started.items()},
        )


class Counter(_Instrument[int]):
    """Adds up amounts; those of a level, which counts what is in progress, may be negative."""

    def add(self, amount: int, values: LabelValues = ()) -> None:
        """Add an amount; zero makes the counter appear."""
        with self._lock:
            if values in self._recent:
                self._recent[values] += amount
            else:
                self._start(values, amount)

    def take(self) -> Family:
        """Return the measurements since the last call; the caller holds the lock."""
        amounts, started = self._take()
        return Family(*self._described, values=dict(amounts), started=started)


class Histogram(_Instrument[HistogramPoint]):
    """Counts values by bucket."""

    def __init__(self, described: Described, labels: Sequence[str], lock: RLock, bounds: Sequence[float]) -> None:
        super().__init__(described, labels, lock)
        self._bounds = tuple(bounds)

    def record(self, value: float, values: LabelValues = ()) -> None:
        """Count a value."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            point = self._recent.get(values)
            if point is None:
                point = HistogramPoint(self._bounds, [0] * (len(self._bounds) + 1))
                self._start(values, point)
            point.counts[bucket] += 1
            point.total += value
            if value < point.least:
                point.least = value
            if value > point.greatest:
                point.greatest = value

    def take(self) -> Family:
        """Return the measurements since the last call; the caller holds the lock."""
        points, started = self._take()
        return Family(*self._described, histograms=points, started=started)


class Instruments:
    """The instruments of a process, and their readers."""

    def __init__(self) -> None:
        self._lock = RLock()  # reentrant: garbage collection may run code that measures at any point
        self._instruments: list[Counter | Histogram] = []
        self._observed: list[tuple[Family, Callable[[], int]]] = []
        self._sums: list[dict[str, Family]] = []

    def counter(self, name: str, unit: str, description: str, labels: Sequence[str] = ()) -> Counter:
        """Create a counter, which only rises."""
        return self._counter((name, "counter", unit, description), labels)

    def level(self, name: str, unit: str, description: str) -> Counter:
        """Create a counter of what is in progress."""
        return self._counter((name, "level", unit, description), ())

    def _counter(self, described: Described, labels: Sequence[str]) -> Counter:
        counter = Counter(described, labels, self._lock)
        self._instruments.append(counter)
        return counter

    def histogram(
        self, name: str, bounds: Sequence[float], description: str, labels: Sequence[str] = (), unit: str = "s"
    ) -> Histogram:
        """Create a histogram with the upper bounds of its buckets."""
        histogram = Histogram((name, "histogram", unit, description), labels, self._lock, bounds)
        self._instruments.append(histogram)
        return histogram

    def observe_level(self, name: str, unit: str, description: str, value: Callable[[], int]) -> None:
        """Call `value` at each reading for what is in progress."""
        self._observed.append((Family(name, "level", unit, description, started={(): time_ns()}), value))

    def reader(self, changes: Collection[Kind] = ()) -> Read:
        """Return a function that reads all instruments: their sums, or for the kinds in `changes` what is new.

        It returns nothing that was read by others before.
        """
        sums: dict[str, Family] = {}
        self._sums.append(sums)

        def read() -> dict[str, Family]:
            with self._lock:
                self._collect()
                families = {name: family.copied() for name, family in sums.items()}
                for family in families.values():
                    if family.kind in changes:
                        del sums[family.name]
            return families | {family.name: replace(family, values={(): value()}) for family, value in self._observed}

        return read

    def _collect(self) -> None:
        for instrument in self._instruments:
            taken = instrument.take()
            if taken.started:
                for sums in self._sums:
                    sums.setdefault(taken.name, taken.emptied()).add(taken)
