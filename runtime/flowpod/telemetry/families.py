"""Readings of instruments: what `/metrics`, the other workers and the exporters get."""

import math
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "level", "gauge", "histogram"]
"""A `counter` only rises. A `level` counts what is in progress, a `gauge` is a reading: both end with their process."""
Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class HistogramPoint:
    """Counts by bucket, as in OpenTelemetry: one bucket more than bounds, which are inclusive upper ones."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0
    least: float = math.inf
    greatest: float = -math.inf

    def add(self, other: "HistogramPoint") -> None:
        """Add the counts of another time or process."""
        if self.bounds == other.bounds:
            self.counts = [count + more for count, more in zip(self.counts, other.counts, strict=True)]
            self.total += other.total
            self.least = min(self.least, other.least)
            self.greatest = max(self.greatest, other.greatest)


@dataclass(slots=True)
class Family:
    """The readings of one instrument by their labels, and when each began, in Unix nanoseconds."""

    name: str
    kind: Kind
    unit: str
    description: str
    values: dict[Labels, float] = field(default_factory=dict)
    histograms: dict[Labels, HistogramPoint] = field(default_factory=dict)
    started: dict[Labels, int] = field(default_factory=dict)

    def add(self, other: "Family") -> None:
        """Add the readings of another time or process: the greater of two gauges, the sum of anything else."""
        for labels, value in other.values.items():
            known = self.values.get(labels)
            if known is None:
                self.values[labels] = value
            else:
                self.values[labels] = max(known, value) if self.kind == "gauge" else known + value
        for labels, histogram in other.histograms.items():
            if labels in self.histograms:
                self.histograms[labels].add(histogram)
            else:
                self.histograms[labels] = copy(histogram)
        for labels, started in other.started.items():
            self.started.setdefault(labels, started)

    def emptied(self) -> "Family":
        """Return the family without readings."""
        return Family(self.name, self.kind, self.unit, self.description)

    def copied(self) -> "Family":
        """Return a copy that can be added to."""
        family = self.emptied()
        family.add(self)
        return family
