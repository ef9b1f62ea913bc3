"""Workers that hang: what they hold runs elsewhere, and what they say when they wake changes nothing."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.kit import Kept, Load, Supervisor, everything_done, keep_all, read_rows, tally_of, until
from tests.system.client import Client
from tests.system.fleet import Fleet, Ports, answers_ok

RATE = 150.0
SLOW = {"slow": {"seconds": 1.0}}


async def two_workers(supervisor: Supervisor) -> tuple[Kept, Kept]:
    """All components and a second worker, ready."""
    first = keep_all(supervisor)["worker"]
    second = supervisor.keep("worker", ports=Ports())
    await supervisor.ready()
    return first, second


async def answers(worker: Kept) -> bool:
    """Whether it says that it is ready; a hanging one says nothing."""
    return await asyncio.to_thread(answers_ok, worker.ready_urls[0])


@pytest.mark.short
async def test_a_frozen_worker_is_replaced_and_fenced_off(faulty: Fleet) -> None:
    async with Supervisor(faulty) as supervisor:
        frozen, _ = await two_workers(supervisor)
        async with Load(faulty, rate=RATE, payloads=SLOW) as load:
            await load.reach(300)
            frozen.freeze()
            assert not await answers(frozen)
            url = faulty.environ["DATABASE_URL"]
            taken_over = "state = 'SUCCEEDED' AND deliveries > attempts"
            await until(lambda: read_rows(url, taken_over), 20, "its jobs run elsewhere")
            frozen.thaw()
            await until(lambda: answers(frozen), 20, "it is ready again")
            figures = await everything_done(load, allow_overlap=True)
    print(f"a frozen worker: {figures}")
    assert frozen.deaths == []
    assert figures.reruns >= 1


async def test_a_handler_that_blocks_the_loop_loses_its_claim(faulty: Fleet) -> None:
    async with Supervisor(faulty) as supervisor:
        workers = await two_workers(supervisor)
        async with Load(faulty, rate=RATE, mix={"good": 0.9, "plain": 0.1}) as load, Client(faulty) as client:
            await load.reach(200)
            job_id = await client.submit(faulty.handled("freezing"), {"seconds": 9})
            await until(lambda: tally_of(load).by_job().get(job_id), 10, "it blocks")
            ready = await asyncio.gather(*map(answers, workers))
            assert sorted(ready) == [False, True]
            await until(lambda: len(tally_of(load).by_job()[job_id]) == 2, 20, "it runs elsewhere")
            job = await client.settled(job_id)
            figures = await everything_done(load, allow_overlap=True)
            await supervisor.ready()
            again = await client.job(job_id)
        first, second = tally_of(load).by_job()[job_id]
    print(f"a blocked loop: {figures}")
    assert job.deliveries == 2
    assert (job.attempts, job.result["delivery"]) == (1, 2)
    assert first.pid != second.pid
    assert first.over > second.over  # the first ended last, successfully, and changed nothing
    assert first.outcome == "ok"
    assert again == job
