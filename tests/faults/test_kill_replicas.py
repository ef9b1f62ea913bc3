"""Two of each component: no job runs twice, no token is published twice without a reason, whoever of them dies."""

from __future__ import annotations

from urllib.parse import urlsplit

import aio_pika
import pytest

from tests.faults.kit import MIX, Kept, Load, Supervisor, everything_done, keep_all
from tests.faults.verdict import runs_needed
from tests.system.fleet import COMPONENTS, Fleet, Ports

RATE = 250.0


class Tap:
    """A queue beside those of the types: it gets a copy of every token that is published, and of every retry that
    comes back from its delay."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def open(self) -> None:
        async with await aio_pika.connect(self._fleet.environ["RABBITMQ_URL"]) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("tap", durable=True)
            for name in MIX:
                await queue.bind("jobs", self._fleet.handled(name))

    async def count(self) -> int:
        """Tokens so far."""
        async with await aio_pika.connect(self._fleet.environ["RABBITMQ_URL"]) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("tap", passive=True)
            return queue.declaration_result.message_count or 0


def keep_two_of_each(supervisor: Supervisor) -> tuple[list[Kept], list[str]]:
    """All six, and the addresses of both job APIs."""
    second = Ports()
    kept = list(keep_all(supervisor).values())
    kept += [supervisor.keep(component, ports=second) for component in COMPONENTS]
    return kept, [ports.grpc("jobapi") for ports in (supervisor.fleet.ports, second)]


def tokens_needed(load: Load) -> int:
    """One for each run."""
    return sum(runs_needed(accepted) for accepted in load.accepted.values())


async def test_two_of_each_share_the_work_and_repeat_none_of_it(faulty: Fleet) -> None:
    assert urlsplit(faulty.environ["RABBITMQ_URL"]).path != "/"
    tap = Tap(faulty)
    async with Supervisor(faulty) as supervisor:
        _, addresses = keep_two_of_each(supervisor)
        await supervisor.ready()
        await tap.open()
        async with Load(faulty, rate=RATE, addresses=addresses) as load:
            await load.reach(1000)
            figures = await everything_done(load)
        published = await tap.count()
    print(f"two of each: {published} tokens for {tokens_needed(load)} runs: {figures}")
    assert figures.reruns == figures.repeated_successes == 0
    assert published <= tokens_needed(load) * 1.02  # an overloaded machine may make a token look lost


@pytest.mark.parametrize("strikes", [pytest.param(3, marks=pytest.mark.short), 6])
async def test_two_of_each_of_which_some_die_all_the_time(faulty: Fleet, strikes: int) -> None:
    tap = Tap(faulty)
    async with Supervisor(faulty) as supervisor:
        kept, addresses = keep_two_of_each(supervisor)
        await supervisor.ready()
        await tap.open()
        async with Load(faulty, rate=RATE, addresses=addresses) as load:
            await load.reach(200)
            await supervisor.havoc(strikes, Kept.kill, kept)
            await supervisor.ready()
            figures = await everything_done(load)
        published = await tap.count()
    print(f"two of each, {strikes} SIGKILLs: {published} tokens for {tokens_needed(load)} runs: {figures}")
    assert published <= tokens_needed(load) * 1.5
