"""A memory or disk alarm: RabbitMQ reads nothing more from whoever publishes, for as long as it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.faults.broker import Vhost, tokens_published
from tests.faults.kit import Load, everything_done
from tests.faults.test_rabbitmq_outages import MIX, RATE, in_state
from tests.system.client import eventually
from tests.system.fleet import Fleet


def logs(fleet: Fleet) -> list[str]:
    return [program.log for program in fleet.programs]


@pytest.mark.parametrize(
    "alarm",
    [
        pytest.param(Vhost.alarm, id="memory", marks=pytest.mark.short),
        pytest.param(Vhost.fill_disk, id="disk"),
    ],
)
async def test_blocked_publishers_accept_on_and_nothing_churns(
    battered: Fleet, vhost: Vhost, alarm: Callable[[Vhost], None]
) -> None:
    before = tokens_published(logs(battered), "overdue")
    gave_up = sum(log.count("connecting anew") for log in logs(battered))
    async with Load(battered, rate=RATE, mix=MIX) as load:
        await load.reach(200)
        await asyncio.to_thread(alarm, vhost)
        try:
            # Those who publish learn of it, and then new rows are nobody's at once.
            await eventually(lambda: in_state(battered, "PENDING"), lambda pending: pending > 0)
            await load.reach(len(load.accepted) + 800)
            assert await in_state(battered, "PENDING") >= 300
            # What was on the broker when it began goes on: acknowledgements have a connection of their own.
            await eventually(lambda: in_state(battered, "RUNNING"), lambda running: running == 0)
        finally:
            await asyncio.to_thread(vhost.calm)
        figures = await everything_done(load)
    published = tokens_published(logs(battered), "overdue") - before
    print(f"{alarm.__name__}: {published} published by the reconciler: {figures}")
    assert not figures.refusals
    assert figures.reruns == 0
    assert published <= 1.2 * len(load.accepted)
    assert sum(log.count("connecting anew") for log in logs(battered)) == gave_up
