"""Runs that outlast what a token may stay unacknowledged, on the embedded default and on real servers."""

from __future__ import annotations

import asyncio
from uuid import UUID

import sqlalchemy as sa

from jobkit.adapters.sql.tables import jobs
from jobkit.domain.job import JobState
from tests.integration.stage import Place, Stage, Trade, eventually
from worker.app import WorkerApp

SOON = {"ACK_AFTER": "1", "SHUTDOWN_GRACE": "0"}


async def let_go(worker: WorkerApp) -> None:
    """Until it runs a job without its token."""
    await eventually(lambda: asyncio.sleep(0, worker.organs.lanes.without_token), lambda number: number == 1)


async def run_without_token(stage: Stage, trade: Trade) -> tuple[WorkerApp, UUID]:
    """A worker, and a job that runs on it after its token was let go."""
    await stage.jobapi()
    worker = await stage.worker(trade, **SOON)
    job_id = await stage.submit(trade.job_type)
    await trade.began(1)
    await let_go(worker)
    return worker, job_id


async def nobodys(stage: Stage) -> int:
    count = sa.select(sa.func.count()).where(jobs.c.session_id.is_(None), jobs.c.state == "QUEUED")

    async def ask(connection: object) -> int:
        return int((await connection.execute(count)).scalar_one())  # type: ignore[attr-defined]

    return await stage.world.database.read(ask)


async def test_a_job_that_outlasts_its_token_ends_where_it_runs(place: Place) -> None:
    trade = Trade(place.type("long"), attempt_timeout=60)
    go = trade.hang()
    async with Stage(place) as stage:
        _, job_id = await run_without_token(stage, trade)
        go.set()
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert (job.deliveries, job.attempts) == (1, 1)


async def test_a_drain_leaves_it_to_the_reconciler(place: Place) -> None:
    trade = Trade(place.type("long"), attempt_timeout=60)
    go = trade.hang()
    async with Stage(place) as stage:
        worker, job_id = await run_without_token(stage, trade)
        await stage.leave(worker)
        assert (await stage.job(job_id)).state is JobState.QUEUED
        assert await nobodys(stage) == 1
        go.set()
        await stage.worker(trade, **SOON)
        await stage.controlplane()
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert (job.deliveries, job.attempts) == (2, 1)


async def test_a_token_that_finds_no_slot_for_long_is_not_lost(place: Place) -> None:
    trade = Trade(place.type("crowded"), attempt_timeout=60)
    go = trade.hang()
    async with Stage(place) as stage:
        await stage.world.open()
        await stage.jobapi()
        # Two at once of the type, one at once in the process: the second is prefetched and does not start.
        await stage.worker(trade, **SOON, WORKER_CONCURRENCY="2", WORKER_MAX_CONCURRENCY="1")
        ids = [await stage.submit(trade.job_type) for _ in range(2)]
        await trade.began(1)
        await asyncio.sleep(1.5)
        assert len(trade.begun) == 1
        go.set()
        for job in await stage.all_reach(ids, JobState.SUCCEEDED):
            assert job.deliveries == 1
