"""Handlers that misbehave cost their own jobs and their own slots, and nobody else's."""

from __future__ import annotations

import pytest
from selfheal.jobs.v1 import job_pb2

from tests.faults.kit import Load, Supervisor, everything_done, keep_all, tally_of, until
from tests.system.client import QUARANTINED, SUCCEEDED, Client
from tests.system.fleet import Fleet

FEW = 4  # one more, and the breaker would open: all fail with API_TIMEOUT
QUICK_MIX = {"good": 0.8, "flaky": 0.2}


async def test_a_handler_that_ignores_its_deadline_is_given_up_and_tried_again(faulty: Fleet) -> None:
    async with Supervisor(faulty) as supervisor:
        keep_all(supervisor)
        await supervisor.ready()
        async with Load(faulty, rate=100, mix=QUICK_MIX) as load, Client(faulty) as client:
            deaf = [
                await client.submit(faulty.handled("deaf"), {"seconds": 5}, timeout=0.5) for _ in range(FEW)
            ]
            jobs = [await client.settled(job_id) for job_id in deaf]
            figures = await everything_done(load, allow_overlap=True)
    print(f"{FEW} deaf handlers: {figures}")
    assert {job.state for job in jobs} == {SUCCEEDED}
    assert {job.attempts for job in jobs} == {2}
    assert {job.last_error.code for job in jobs} == {"API_TIMEOUT"}
    assert figures.slowest_seconds < 5


async def test_a_thread_that_ignores_its_deadline_is_given_up(faulty: Fleet) -> None:
    async with Supervisor(faulty) as supervisor:
        keep_all(supervisor)
        await supervisor.ready()
        async with Load(faulty, rate=100, mix=QUICK_MIX) as load, Client(faulty) as client:
            name = faulty.handled("plain")
            ids = [await client.submit(name, {"seconds": 6}, timeout=0.5, max_attempts=1) for _ in range(FEW)]
            jobs = [await client.settled(job_id) for job_id in ids]
            after = await client.settled(await client.submit(name))
            figures = await everything_done(load, allow_overlap=True)
            await until(lambda: all(run.end for run in tally_of(load).runs()), 15, "the threads end")
            later = [await client.job(job_id) for job_id in ids]
    print(f"{FEW} deaf threads: {figures}")
    assert {(job.state, job.quarantine.reason) for job in jobs} == {
        (QUARANTINED, job_pb2.QUARANTINE_REASON_RETRIES_EXHAUSTED)
    }
    assert after.state == SUCCEEDED
    assert later == jobs  # that they ended well after all changes nothing


@pytest.mark.short
async def test_leaked_tasks_and_threads_do_not_keep_a_worker_from_draining(faulty: Fleet) -> None:
    async with Supervisor(faulty) as supervisor:
        worker = keep_all(supervisor)["worker"]
        await supervisor.ready()
        leaks = {"leaky": {"seconds": 600, "tasks": 3, "threads": 1}}
        async with Load(faulty, rate=100, mix={"good": 0.5, "leaky": 0.5}, payloads=leaks) as load:
            await load.reach(200)
            worker.terminate()
            await supervisor.wait_for_death(worker, 0, timeout=10)
            figures = await everything_done(load)
    print(f"leaking handlers: {figures}")
    assert worker.deaths == [0]
    assert figures.reruns == 0
