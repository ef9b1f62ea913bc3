"""The broker goes away and comes back under load: submits stay accepted, tokens flow when it is back, and consumers
come back by themselves."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.broker import Vhost
from tests.faults.kit import Load, everything_done, query
from tests.system.fleet import Fleet

RATE = 150.0
MIX = {"good": 0.6, "flaky": 0.2, "held": 0.1, "slow": 0.05, "plain": 0.05}


async def in_state(fleet: Fleet, state: str) -> int:
    (row,) = await query(fleet.environ["DATABASE_URL"], f"SELECT count(*) FROM jobs WHERE state = '{state}'")
    return int(str(row[0]))


@pytest.mark.parametrize("end", ["stop", pytest.param("kill", marks=pytest.mark.short)])
async def test_a_node_that_ends_and_starts_again(battered: Fleet, vhost: Vhost, end: str) -> None:
    async with Load(battered, rate=RATE, mix=MIX) as load:
        await load.reach(200)
        await asyncio.to_thread(getattr(vhost.rabbit, end))
        # Still accepted, as nobody's: no token can be published.
        await load.reach(len(load.accepted) + 150)
        assert await in_state(battered, "PENDING") >= 100
        await asyncio.to_thread(vhost.rabbit.start)
        figures = await everything_done(load)
    print(f"node, {end}: {figures}")
    assert not figures.refusals
    assert figures.reruns == 0


@pytest.mark.short
async def test_connections_closed_by_force_again_and_again(battered: Fleet, vhost: Vhost) -> None:
    async with Load(battered, rate=RATE, mix=MIX) as load:
        await load.reach(100)
        for _ in range(3):
            await asyncio.to_thread(vhost.close_connections)
            await load.reach(len(load.accepted) + 100)
        figures = await everything_done(load)
    print(f"connections closed: {figures}")
    assert not figures.refusals
    assert figures.reruns == 0
