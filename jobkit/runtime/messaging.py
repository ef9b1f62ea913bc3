"""What goes through the queue, by OpenTelemetry's conventions for messaging metrics (v1.44), in Prometheus' spelling.

A job costs no more than one count: sending is counted by the batch, and how long processing took is what
`selfheal_job_duration_seconds` has observed already, told under a second name when somebody scrapes.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

from jobkit.ports import Dispatch
from jobkit.tally import Count, Counts, Durations

EXCHANGE = "jobs"
EMBEDDED, RABBITMQ = "selfheal", "rabbitmq"
LABELS = ("messaging_system", "messaging_destination_name", "messaging_operation_name")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# Destinations are job types, which are bounded, and the rungs of the ladder.
CHILDREN = 8192
UNCONFIRMED = "unconfirmed"

Publish = Callable[[Sequence[Dispatch]], Awaitable[list[bool]]]


class MessagingMetrics:
    """One component's. `embedded` queues are a system of their own: no broker carries them."""

    def __init__(self, registry: CollectorRegistry, *, embedded: bool) -> None:
        self._registry = registry
        self._system = EMBEDDED if embedded else RABBITMQ
        self._sent = Counter(
            "messaging_client_sent_messages_total",
            "Messages that were sent to the broker.",
            [*LABELS, "error_type"],
            registry=registry,
        )
        self._consumed = Counts(
            "messaging_client_consumed_messages_total",
            "Messages that were delivered to the worker.",
            LABELS,
            registry=registry,
        )
        operations = Histogram(
            "messaging_client_operation_duration_seconds",
            "From sending a batch to the last confirm of it.",
            LABELS,
            buckets=BUCKETS,
            registry=registry,
        )
        self._publishing = operations.labels(self._system, EXCHANGE, "publish")
        self._sent_of = lru_cache(CHILDREN)(self._sent_to)

    def counted(self, publish: Publish) -> Publish:
        """`publish`, and its batches counted."""

        async def publish_counted(batch: Sequence[Dispatch]) -> list[bool]:
            started = time.perf_counter()
            answers = await publish(batch)
            self._publishing.observe(time.perf_counter() - started)
            for key, count in Tally(
                (item.token.job_type, item.delay, ok) for item, ok in zip(batch, answers, strict=True)
            ).items():
                self._sent_of(*key).inc(count)
            return answers

        return publish_counted

    def _sent_to(self, job_type: str, delay: int, confirmed: bool) -> Counter:
        # What waits on a rung went through a fanout exchange, where the routing key says nothing.
        destination = f"{EXCHANGE}.retry.{delay}" if delay else sent_to(job_type)
        return self._sent.labels(self._system, destination, "publish", "" if confirmed else UNCONFIRMED)

    def consumed(self, job_type: str) -> Count:
        """To be counted up with each delivery of the type."""
        return self._consumed.labels(self._system, consumed_from(job_type), "process")

    def tell_processing(self, durations: Durations) -> None:
        """Tell what `durations` observes by job type as `messaging_process_duration_seconds` too."""
        self._registry.register(_Renamed(durations, self._system))


class _Renamed:
    """A collector: one histogram under another name and with other labels."""

    def __init__(self, durations: Durations, system: str) -> None:
        self._durations = durations
        self._system = system

    def collect(self) -> Iterator[Metric]:
        name = "messaging_process_duration_seconds"
        told = Metric(name, "How long processing of a message took.", "histogram")
        for known in self._durations.collect():
            for sample in known.samples:
                suffix = sample.name.removeprefix(known.name)
                place = consumed_from(sample.labels["job_type"])
                labels = dict(zip(LABELS, (self._system, place, "process"), strict=True))
                if "le" in sample.labels:
                    labels["le"] = sample.labels["le"]
                told.add_sample(name + suffix, labels, sample.value)
        yield told


def sent_to(job_type: str) -> str:
    """`{exchange}:{routing key}`, as the conventions name where a producer of RabbitMQ sends to."""
    return f"{EXCHANGE}:{job_type}"


def consumed_from(job_type: str) -> str:
    """`{exchange}:{routing key}:{queue}`, as the conventions name what a consumer of RabbitMQ reads."""
    return f"{sent_to(job_type)}:{EXCHANGE}.main.{job_type}"
