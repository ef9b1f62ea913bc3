"""What hot paths count reads like what the client library would have counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists, sampled_from, tuples
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from jobkit.tally import Counts, Durations

BOUNDS = (0.005, 0.1, 1, 10)
LABELS = sampled_from(["a", 'b"\n'])
SECONDS = floats(0, 20) | sampled_from(BOUNDS)


def told(registry: CollectorRegistry) -> list[str]:
    """Without the library's moments of creation."""

    def lines() -> Iterator[str]:
        created = False
        for line in generate_latest(registry).decode().splitlines():
            created = line.split()[2].endswith("_created") if line.startswith("# ") else created
            if not created:
                yield line

    return list(lines())


@given(lists(tuples(LABELS, SECONDS)))
def test_durations(observed: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    durations = Durations("took_seconds", "How long.", ["kind"], buckets=BOUNDS, registry=ours)
    histogram = Histogram("took_seconds", "How long.", ["kind"], buckets=BOUNDS, registry=theirs)
    for label, seconds in observed:
        durations.labels(label).observe(seconds)
        histogram.labels(label).observe(seconds)
    assert told(ours) == told(theirs)


@given(lists(tuples(LABELS, LABELS)))
def test_counts(seen: list[tuple[str, str]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("seen_total", "How many.", ["one", "other"], registry=ours)
    counter = Counter("seen_total", "How many.", ["one", "other"], registry=theirs)
    for labels in seen:
        counts.labels(*labels).inc()
        counter.labels(*labels).inc()
    assert told(ours) == told(theirs)


def test_a_name_is_counted_once() -> None:
    registry = CollectorRegistry()
    Counts("seen_total", "How many.", [], registry=registry)
    with pytest.raises(ValueError, match="seen"):
        Counts("seen_total", "How many.", [], registry=registry)
