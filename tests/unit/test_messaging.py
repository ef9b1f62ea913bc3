"""Messaging metrics: a batch is counted once, and what is told twice is observed once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from jobkit.domain.job import Token
from jobkit.host.world import new_id
from jobkit.ports import Dispatch
from jobkit.runtime.messaging import MessagingMetrics
from jobkit.tally import Durations

SENT = "messaging_client_sent_messages_total"
AT = {"messaging_system": "rabbitmq", "messaging_operation_name": "publish"}


def to(job_type: str, delay: int = 0) -> Dispatch:
    return Dispatch(Token(new_id(), job_type, 1), delay)


async def test_what_was_sent_is_counted_by_destination_and_outcome() -> None:
    registry = CollectorRegistry()
    metrics = MessagingMetrics(registry, embedded=False)

    async def publish(batch: Sequence[Dispatch]) -> list[bool]:
        return [item.token.job_type != "gone" for item in batch]

    counted = metrics.counted(publish)
    assert await counted([to("a"), to("b"), to("a"), to("gone"), to("a", 500)]) == [True] * 3 + [False, True]
    await counted([to("a")])
    for name, error, count in (
        ("jobs:a", "", 3),
        ("jobs:b", "", 1),
        ("jobs:gone", "unconfirmed", 1),
        ("jobs.retry.500", "", 1),
    ):
        labels = {**AT, "messaging_destination_name": name, "error_type": error}
        assert registry.get_sample_value(SENT, labels) == count
    batches = "messaging_client_operation_duration_seconds_count"
    assert registry.get_sample_value(batches, {**AT, "messaging_destination_name": "jobs"}) == 2


@pytest.mark.parametrize(("embedded", "system"), [(True, "selfheal"), (False, "rabbitmq")])
def test_durations_are_told_under_both_names(embedded: bool, system: str) -> None:
    registry = CollectorRegistry()
    ran = Durations("selfheal_job_duration_seconds", "Ran.", ["job_type"], registry=registry, buckets=(1, 5))
    metrics = MessagingMetrics(registry, embedded=embedded)
    metrics.tell_processing(ran)
    ran.labels("a").observe(2)
    metrics.consumed("a").inc()
    at = {
        "messaging_system": system,
        "messaging_destination_name": "jobs:a:jobs.main.a",
        "messaging_operation_name": "process",
    }
    name = "messaging_process_duration_seconds"
    for bucket, count in (("1.0", 0), ("5.0", 1), ("+Inf", 1)):
        assert registry.get_sample_value(f"{name}_bucket", {**at, "le": bucket}) == count
    assert registry.get_sample_value(f"{name}_sum", at) == 2
    assert registry.get_sample_value(f"{name}_count", at) == 1
    assert registry.get_sample_value("messaging_client_consumed_messages_total", at) == 1
    assert f"# TYPE {name} histogram" in generate_latest(registry).decode()
