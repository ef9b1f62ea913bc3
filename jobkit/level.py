"""Gauges of how many there are now: counted in plain numbers, and read when somebody scrapes."""

from __future__ import annotations

from collections import Counter
from functools import partial

from prometheus_client import Gauge


class Level:
    """Of a gauge with one label. Cheaper than the gauge itself, which takes a lock each time."""

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
