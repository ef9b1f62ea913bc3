"""What hot paths count: in plain numbers, told when somebody scrapes.

The client library's own counters take a lock for each step, and a histogram takes two steps and a search: with them a
job cost a worker 7 % more. For what is counted once in a while, or by other threads than the loop's, use the library.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Level:
    """How many there are now: of a gauge with one label."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._now: Counter[str] = Counter()

    def up(self, label: str) -> None:
        """One more."""
        if label not in self._now:
            self._gauge.labels(label).set_function(partial(self._now.__getitem__, label))
        self._now[label] += 1

    def down(self, label: str) -> None:
        """One less."""
        self._now[label] -= 1


class Count:
    """How often something happened."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, times: int = 1) -> None:
        self.value += times


class Counts(Collector):
    """A counter with labels, as the library's `Counter`."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        self._named = name, documentation, labels
        self._each: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The count of these; to be kept where it is used for each job."""
        count = self._each.get(values)
        if count is None:
            count = self._each[values] = Count()
        return count

    def describe(self) -> list[Metric]:
        return [CounterMetricFamily(*self._named[:2])]

    def collect(self) -> Iterator[Metric]:
        name, documentation, labels = self._named
        family = CounterMetricFamily(name, documentation, labels=labels)
        for values, count in self._each.items():
            family.add_metric(values, count.value)
        yield family


class Duration:
    """How long something took, each time: how often within each bound."""

    __slots__ = ("_bounds", "total", "within")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.within = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.within[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds


class Durations(Collector):
    """A histogram with labels, as the library's `Histogram`; `buckets` are its upper bounds, in order."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._named = name, documentation, labels
        self._bounds = tuple(buckets)
        self._each: dict[tuple[str, ...], Duration] = {}
        registry.register(self)

    def labels(self, *values: str) -> Duration:
        """The durations of these; to be kept where it is used for each job."""
        duration = self._each.get(values)
        if duration is None:
            duration = self._each[values] = Duration(self._bounds)
        return duration

    def describe(self) -> list[Metric]:
        return [HistogramMetricFamily(*self._named[:2])]

    def collect(self) -> Iterator[Metric]:
        name, documentation, labels = self._named
        family = HistogramMetricFamily(name, documentation, labels=labels)
        bounds = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]  # type: ignore[no-untyped-call]
        for values, duration in self._each.items():
            buckets = list(zip(bounds, accumulate(duration.within), strict=True))
            family.add_metric(values, buckets, duration.total)
        yield family
