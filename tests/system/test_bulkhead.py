"""Job types do not get into each other's way, and workers learn of new ones while they run."""

from __future__ import annotations

import pytest
from selfheal.jobs.v1 import job_pb2

from tests.system.client import RUNNING, SUCCEEDED, Client, eventually, simulate
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
    for job_id in hanging:  # leave the slots to the next test
        await client.jobs.CancelJob(job_pb2_request(job_id))
    cancelled = [await client.settled(job_id) for job_id in hanging]
    assert {job.state for job in cancelled} == {job_pb2.JOB_STATE_CANCELLED}


def job_pb2_request(job_id: str):  # noqa
    from selfheal.jobs.v1 import job_service_pb2

    return job_service_pb2.CancelJobRequest(job_id=job_id)


async def test_a_type_that_was_never_seen_is_served_without_a_restart(client: Client, fleet: Fleet) -> None:
    for _ in range(3):
        job = await client.settled(await client.submit(fleet.job_type("new")))
        assert (job.state, job.deliveries) == (SUCCEEDED, 1)


async def test_the_note_of_a_job_says_when_nobody_serves_its_type(tmp_path: pytest.TempPathFactory) -> None:
    pass
