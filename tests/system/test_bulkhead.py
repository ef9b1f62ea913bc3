"""Job types do not get into each other's way, and workers learn of new ones while they run."""

from __future__ import annotations

import pytest

from tests.system.client import CANCELLED, RUNNING, SUCCEEDED, Client, eventually, simulate
from tests.system.fleet import Fleet


async def test_two_hundred_hanging_jobs_do_not_delay_another_type(client: Client, fleet: Fleet) -> None:
    hanging_type = fleet.job_type("hangs")
    hanging = await client.submit_many(hanging_type, 200, simulate(durationMs=20_000))
    await eventually(
        lambda: client.get(f"controlplane/queues/{hanging_type}/stats"), lambda stats: stats["running"] >= 16
    )

    other = [await client.submit(fleet.job_type("quick")) for _ in range(3)]

    for job_id in other:
        assert (await client.settled(job_id)).state == SUCCEEDED
    jobs = await client.listed(f'job_type = "{hanging_type}"')
    assert len(jobs) == 200
    assert sum(job.state == RUNNING for job in jobs) == 16  # WORKER_CONCURRENCY
    assert not [job for job in jobs if job.state == SUCCEEDED]
    for job_id in hanging:  # leaves the slots to the next test
        await client.cancel(job_id)
    cancelled = [await client.settled(job_id) for job_id in hanging]
    assert {job.state for job in cancelled} == {CANCELLED}


async def test_a_type_that_was_never_seen_is_served_without_a_restart(client: Client, fleet: Fleet) -> None:
    for _ in range(3):
        job = await client.settled(await client.submit(fleet.job_type("new")))
        assert (job.state, job.deliveries) == (SUCCEEDED, 1)


async def test_a_job_whose_type_nobody_serves_waits_and_says_so(few_types: Fleet) -> None:
    async with Client(few_types) as client:
        job_id = await client.submit("fax", {})
        note = "no live worker serves job type 'fax'"
        job = await eventually(lambda: client.job(job_id), lambda job: job.note)
        assert (job.note, job.attempts, job.deliveries) == (note, 0, 0)
        assert (await client.get(f"jobapi/v1/jobs/{job_id}"))["job"]["note"] == note
        served = await client.submit(few_types.handled("echo"))
        await client.result(served)
        assert not (await client.job(served)).note


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_a_job_waits_for_the_first_worker_that_serves_its_type(
    headless: Fleet, headless_client: Client
) -> None:
    client, job_type = headless_client, headless.handled("echo")
    job_id = await client.submit(job_type, {"n": 1})
    await eventually(lambda: client.job(job_id), lambda job: "no live worker" in job.note)

    worker, _ = headless.worker()

    assert (await client.result(job_id))["payload"] == {"n": 1}
    worker.stop()
