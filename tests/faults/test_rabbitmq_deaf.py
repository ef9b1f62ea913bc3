"""Queues that the broker lists as running and that answer nobody are replaced."""

from __future__ import annotations

import asyncio

import pytest

from jobkit.adapters.rabbitmq import names
from tests.faults.broker import Vhost
from tests.faults.kit import Load, everything_done, until
from tests.faults.test_rabbitmq_outages import RATE
from tests.system.fleet import Fleet

MIX = {"good": 0.8, "flaky": 0.2}


@pytest.mark.parametrize("which", ["a rung of the ladder", "a job type's queue"])
async def test_a_queue_without_a_leader_is_replaced(battered: Fleet, vhost: Vhost, which: str) -> None:
    queue = names.retry(250) if which.startswith("a rung") else names.main_queue(battered.handled("flaky"))
    said = f"queue {queue} gave no answer and was deleted"
    async with Load(battered, rate=RATE, mix=MIX) as load:
        await load.reach(200)
        await asyncio.to_thread(vhost.behead, queue)
        # Work goes on meanwhile: what is published there comes back as lost, until the queue has been silent twice.
        await until(lambda: said in "".join(p.log for p in battered.programs), 100, "the queue is replaced")
        figures = await everything_done(load, timeout=100)
    print(f"{which} deaf: {figures}")
    assert not figures.refusals
