"""What hot paths count: in plain numbers, told when somebody scrapes.

The client library's own counters take a lock for each step, and a histogram takes two steps and a search: with them a
job cost a worker 7 % more. For what is counted once in a while, or by other threads than the loop's, use the library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

T = TypeVar("T")
F = TypeVar("F", CounterMetricFamily, HistogramMetricFamily)


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


class _Labelled(Collector, ABC, Generic[T, F]):
    """One for each set of labels."""

    _family: type[F]

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        self._named = name, documentation, labels
        self._each: dict[tuple[str, ...], T] = {}
        registry.register(self)

    def labels(self, *values: str) -> T:
        """The one of these; to be kept where it is used for each job."""
        one = self._each.get(values)
        if one is None:
            one = self._each[values] = self._new()
        return one

    def describe(self) -> list[Metric]:
        return [self._family(*self._named[:2])]

    def collect(self) -> Iterator[Metric]:
        name, documentation, labels = self._named
        family = self._family(name, documentation, labels=labels)
        for values, one in self._each.items():
            self._tell(family, values, one)
        yield family

    @abstractmethod
    def _new(self) -> T: ...

    @abstractmethod
    def _tell(self, family: F, labels: Sequence[str], one: T) -> None:
        """Add it to what is scraped."""


class Counts(_Labelled[Count, CounterMetricFamily]):
    """A counter with labels, as the library's `Counter`."""

    _family = CounterMetricFamily

    def _new(self) -> Count:
        return Count()

    def _tell(self, family: CounterMetricFamily, labels: Sequence[str], one: Count) -> None:
        family.add_metric(labels, one.value)


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


class Durations(_Labelled[Duration, HistogramMetricFamily]):
    """A histogram with labels, as the library's `Histogram`; `buckets` are its upper bounds, in order."""

    _family = HistogramMetricFamily

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._bounds = tuple(buckets)
        self._les = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]  # type: ignore[no-untyped-call]
        super().__init__(name, documentation, labels, registry=registry)

    def _new(self) -> Duration:
        return Duration(self._bounds)

    def _tell(self, family: HistogramMetricFamily, labels: Sequence[str], one: Duration) -> None:
        family.add_metric(labels, list(zip(self._les, accumulate(one.within), strict=True)), one.total)
