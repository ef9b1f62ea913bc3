"""What lies on the broker is taken away under load: tokens are missed by their order and by empty queues, and each
is published again once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1.breaker_service_pb2 import OpenBreakerRequest

from jobkit.domain.retry import LADDER
from tests.faults.broker import Vhost, tokens_published
from tests.faults.kit import MIX, Load, everything_done
from tests.system.client import SUCCEEDED, Client, eventually
from tests.system.fleet import Fleet

RATE = 150.0
# A backlog of its own: two seconds' work for the worker's sixteen slots of the type.
PAYLOADS = {"slow": {"seconds": 1.0}}


def mains(fleet: Fleet, *names: str) -> list[str]:
    return [f"jobs.main.{fleet.handled(name)}" for name in names or MIX]


def ladder(queues: list[str]) -> list[str]:
    return [name for name in (f"jobs.retry.{step}" for step in LADDER) if name in queues]


def lost(fleet: Fleet) -> int:
    """Tokens that the control planes missed so far."""
    logs = [program.log for program in fleet.programs if program.arguments[0] == "controlplane"]
    return tokens_published(logs, "lost")


async def purge(fleet: Fleet, vhost: Vhost) -> int:
    queues = await asyncio.to_thread(vhost.queues)
    return await vhost.purge([*mains(fleet), *ladder(queues)])


async def delete_queues(fleet: Fleet, vhost: Vhost) -> int:
    queues = await asyncio.to_thread(vhost.queues)
    await vhost.delete_queues([*mains(fleet), *ladder(queues)])
    return 0


async def delete_exchange(fleet: Fleet, vhost: Vhost) -> int:
    await vhost.delete_exchange("jobs")
    return 0


async def delete_ladder_exchange(fleet: Fleet, vhost: Vhost) -> int:
    await vhost.delete_exchange("jobs.retry.250")
    return 0


async def wipe(fleet: Fleet, vhost: Vhost) -> int:
    await asyncio.to_thread(vhost.wipe)
    return 0


Harm = Callable[[Fleet, Vhost], Awaitable[int]]


@pytest.mark.parametrize(
    "harm",
    [
        purge,
        delete_queues,
        delete_exchange,
        delete_ladder_exchange,
        pytest.param(wipe, marks=pytest.mark.short),
    ],
)
async def test_tokens_that_are_gone_are_missed(battered: Fleet, vhost: Vhost, harm: Harm) -> None:
    before = lost(battered)
    async with Load(battered, rate=RATE, payloads=PAYLOADS) as load:
        await load.reach(300)
        taken = await harm(battered, vhost)
        await load.reach(len(load.accepted) + 150)
        figures = await everything_done(load)
    print(f"{harm.__name__}: {taken} messages purged, {lost(battered) - before} published again: {figures}")
    assert not figures.refusals
    assert figures.reruns == 0
    if taken:
        assert 0 < lost(battered) - before <= 1.5 * taken


async def test_a_held_type_whose_queue_was_emptied_is_probed_and_heals(battered: Fleet, vhost: Vhost) -> None:
    """A probe needs a token, and no submit comes to its help."""
    held = battered.handled("held")
    until = Timestamp()
    until.FromNanoseconds(time.time_ns() + 4_000_000_000)
    async with Client(battered) as client:
        await client.submit(held)
        await client.breakers.OpenBreaker(OpenBreakerRequest(breaker=held, reason="a while", until=until))
        jobs = await client.submit_many(held, 50)
        await eventually(lambda: vhost.depth(mains(battered, "held")[0]), lambda depth: depth >= 50)
        assert await purge(battered, vhost) >= 50
        settled = [await client.settled(job) for job in jobs]
    assert {job.state for job in settled} == {SUCCEEDED}


async def test_held_and_backlogged_types_are_not_published_again(battered: Fleet, vhost: Vhost) -> None:
    """However long they wait: time alone says nothing."""
    before = lost(battered)
    async with Load(battered, rate=RATE, mix={"held": 0.3, "slow": 0.7}, payloads=PAYLOADS) as load:
        await load.reach(300)
        await load.quiet()
        held = sum(job.name == "held" for job in load.accepted.values())
        await asyncio.sleep(8)  # more than two passes of the reconciler, and of LOST_AFTER
        assert lost(battered) == before
        assert await vhost.depth(mains(battered, "held")[0]) == held
        figures = await everything_done(load)
    print(f"held and backlogged: {figures}")
    assert lost(battered) == before
