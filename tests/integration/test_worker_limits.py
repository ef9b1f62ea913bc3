"""The fleet's limits at work: slots shared by workers, pauses, recoveries, Redis away."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import pytest

from jobkit import TransientError
from jobkit.domain.breaker import BreakerState
from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import Job, JobState, QuarantineReason
from jobkit.handling import JobContext
from tests.integration.stage import Place, Stage, Trade, eventually, succeed
from tests.integration.test_worker_lanes import in_order, trip
from worker.app import WorkerApp

# A type whose slots go from hand to hand among workers waits for some reports: longer than that none may wait.
INTERVALS, INTERVAL_SECONDS = 3, 4.0


async def limit(stage: Stage, job_type: str, slots: int | None, *apps: WorkerApp) -> None:
    """As an operator does, and until these workers know."""
    await stage.world.types.ensure([job_type], 1000)
    info = await stage.world.type_steering.limit(job_type, slots, "ada", "a test")
    await known(job_type, info.revision, *apps)


async def known(job_type: str, revision: int, *apps: WorkerApp) -> None:
    for app in apps:
        await app.organs.lanes.learn()
        assert app.organs.limits.of(job_type).revision >= revision


def slow(seconds: float) -> object:
    async def act(job: JobContext) -> None:
        await asyncio.sleep(seconds)

    return act


async def test_two_workers_that_share_a_limit_of_3_never_run_4_at_once(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        apps = [await stage.worker(email), await stage.worker(email)]
        await limit(stage, email.job_type, 3, *apps)
        email.act = slow(0.05)  # type: ignore[assignment]
        ids = await stage.submit_many(email.job_type, 120)
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=40)
    assert email.most <= 3
    assert email.most == 3


async def test_a_limit_that_is_lifted_limits_no_more(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        await limit(stage, email.job_type, 2, app)
        go = email.hang()
        ids = await stage.submit_many(email.job_type, 20)
        await email.began(2)
        await asyncio.sleep(1)
        assert email.running == 2
        await limit(stage, email.job_type, None, app)
        await email.began(16)
        go.set()
        await stage.all_reach(ids, JobState.SUCCEEDED)
        assert app.organs.limits.of(email.job_type).share is None


async def test_a_dead_workers_slots_come_back(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        first = await stage.worker(email)
        await limit(stage, email.job_type, 3, first)
        go = email.hang()
        ids = await stage.submit_many(email.job_type, 3)
        await email.began(3)
        # It dies as far as the store can see: no report more, and none that gives anything back.
        await first.organs.limits._loops.stop()
        first.organs.limits._allowances.clear()
        await stage.worker(email)
        await asyncio.sleep(1)  # the second one consumes: the broker shares out what comes now
        ids += await stage.submit_many(email.job_type, 12)
        await email.began(4)
        go.set()
        await stage.leave(first)
        await stage.all_reach(ids, JobState.SUCCEEDED)


async def test_a_paused_type_is_held_and_resumes_in_order(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        info = await stage.world.type_steering.pause(email.job_type, "ada", "they move", None)
        await known(email.job_type, info.revision, app)
        ids = [await stage.submit(email.job_type) for _ in range(30)]
        jobs = await stage.all_reach(ids, JobState.QUARANTINED)
        assert {job.quarantine.reason for job in jobs if job.quarantine} == {QuarantineReason.PAUSED}
        assert {(job.attempts, job.deliveries, job.holds) for job in jobs} == {(0, 0, 1)}
        await asyncio.sleep(0.5)
        assert email.begun == []
        assert app.organs.lanes.in_hand[email.job_type] == 0
        await stage.world.type_steering.resume(email.job_type, "ada", "they have moved")
        app.organs.lanes.hurry()
        jobs = await stage.all_reach(ids, JobState.SUCCEEDED)
    assert in_order(email.ids, ids)
    assert {(job.attempts, job.deliveries, job.holds) for job in jobs} == {(1, 1, 1)}


async def test_a_pause_ends_by_itself(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        until = await stage.world.database.now() + 1500
        info = await stage.world.type_steering.pause(email.job_type, "ada", "", until)
        await known(email.job_type, info.revision, app)
        job_id = await stage.submit(email.job_type)
        await stage.reaches(job_id, JobState.QUARANTINED)
        await stage.reaches(job_id, JobState.SUCCEEDED, patience=8)


async def test_nobody_probes_a_paused_type(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="0.3")
        await trip(stage, email, app)
        info = await stage.world.type_steering.pause(email.job_type, "ada", "", None)
        await known(email.job_type, info.revision, app)
        email.act = succeed
        ran = len(email.begun)
        job_id = await stage.submit(email.job_type)
        await asyncio.sleep(1.2)
        assert len(email.begun) == ran
        await stage.world.type_steering.resume(email.job_type, "ada", "")
        app.organs.lanes.hurry()
        await stage.reaches(job_id, JobState.SUCCEEDED)


async def test_a_recovery_starts_small_and_ends_with_the_backlog(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        app = await stage.worker(email, COOLDOWN_PERIOD="3600", MAX_COOLDOWN="3600")
        await trip(stage, email, app)
        ids = await stage.submit_many(email.job_type, 60)
        email.act = succeed
        email.most = 0
        gate = app.organs.limits.of(email.job_type)
        await stage.post(plane, f"/breakers/{email.job_type}/reset")

        async def rate() -> float | None:
            return gate.quota.rate

        await eventually(rate, lambda found: found is not None)
        began = asyncio.get_running_loop().time()
        await stage.all_reach(ids, JobState.SUCCEEDED)
        assert asyncio.get_running_loop().time() - began > 1  # 60 at 20 a second, doubling
        assert email.most <= 8

        async def share() -> int | None:
            return gate.share

        await eventually(share, lambda found: found is None, 10)


async def test_without_redis_an_operators_limit_stays_and_a_recovery_is_dropped(embedded: Place) -> None:
    email, sms = Trade(embedded.type("email")), Trade(embedded.type("sms"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, sms)
        break_store(stage)
        await limit(stage, email.job_type, 3, app)
        go = email.hang()
        ids = await stage.submit_many(email.job_type, 20)
        await email.began(3)
        await asyncio.sleep(1.5)
        assert email.running == 3
        go.set()
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=20)
        plane = await stage.controlplane()
        await trip(stage, sms, app)
        sms.act = succeed
        held = await stage.submit_many(sms.job_type, 20)
        await stage.post(plane, f"/breakers/{sms.job_type}/reset")
        await stage.all_reach(held, JobState.SUCCEEDED, patience=20)
        assert app.organs.limits.of(sms.job_type).share is None


def break_store(stage: Stage) -> None:
    """From now on the limit store answers nothing, as when its server is gone."""

    async def away(*_: object) -> None:
        raise store_unavailable("redis")

    stage.world.limits.report = away  # type: ignore[method-assign,assignment]
    stage.world.limits.spend = away  # type: ignore[method-assign,assignment]


async def test_many_types_whose_limits_keep_changing_do_not_starve_one_another(real: Place) -> None:
    """Whoever has work gets on within every few seconds, and nobody ever has more than the highest limit."""
    trades = [Trade(real.type(f"type-{n}")) for n in range(12)]
    dice, highest, jobs = random.Random(5), 4, 90
    async with Stage(real) as stage:
        await stage.jobapi()
        apps = [await stage.worker(*trades), await stage.worker(*trades)]
        for n, trade in enumerate(trades):
            trade.act = slow(0.15)  # type: ignore[assignment]
            await limit(stage, trade.job_type, 1 + n % highest, *apps)
        ids = [job_id for trade in trades for job_id in await stage.submit_many(trade.job_type, jobs)]
        for trade in trades:
            await trade.began(1)
        for _ in range(INTERVALS):
            before = [len(trade.begun) for trade in trades]
            ends = asyncio.get_running_loop().time() + INTERVAL_SECONDS
            while asyncio.get_running_loop().time() < ends:
                for trade in dice.sample(trades, 4):
                    await limit(stage, trade.job_type, dice.randint(1, highest), *apps)
                await asyncio.sleep(0.3)
            got_on = [len(trade.begun) - had for trade, had in zip(trades, before, strict=True)]
            assert all(n > 0 or had == jobs for n, had in zip(got_on, before, strict=True)), got_on
        for trade in trades:
            trade.act = succeed
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=60)
    assert all(trade.most <= highest for trade in trades)


async def test_retries_beyond_the_budget_wait_longer(embedded: Place) -> None:
    email = Trade(embedded.type("email"), max_attempts=2)
    failed: set[UUID] = set()

    async def act(job: JobContext) -> None:
        if job.attempt == 1:
            failed.add(job.job_id)
            raise TransientError(f"CODE_{len(failed) % 40}")

    email.act = act
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, RETRY_DELAY_MS="250", FAILURE_THRESHOLD="1000")
        ids = await stage.submit_many(email.job_type, 60)

        async def read() -> list[Job]:
            return list((await stage.world.reader.get(ids)).values())

        jobs = await eventually(read, lambda found: all(job.attempts for job in found))
        assert app.organs.breakers.of(email.job_type).record.state is BreakerState.CLOSED
        waiting = [job for job in jobs if job.state is JobState.RETRYING]
        waits = sorted((job.due_time - job.update_time).total_seconds() for job in waiting)
        assert waits[-1] > 5
        assert len([wait for wait in waits if wait < 1]) <= 20


@pytest.mark.parametrize("component", ["controlplane", "worker"])
async def test_queues_are_paused_and_resumed(embedded: Place, component: str) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        worker = await stage.worker(email)
        app = plane if component == "controlplane" else worker
        await stage.submit("email")
        assert await stage.post(app, "/queues/email/pause") == (200, {"name": "email", "paused": True})
        _, stats = await stage.get(app, "/queues/email/stats")
        assert stats["paused"] is True
        job_id = await stage.submit("email")
        job = await stage.reaches(job_id, JobState.QUARANTINED)
        assert job.quarantine is not None
        assert job.quarantine.reason is QuarantineReason.PAUSED
        assert await stage.post(app, "/queues/jobs.main.email/resume") == (
            200,
            {"name": "jobs.main.email", "paused": False},
        )
        await stage.reaches(job_id, JobState.SUCCEEDED)
        assert (await stage.post(app, "/queues/jobs.main/pause"))[0] == 200
        assert (await stage.get(app, "/queues/jobs.main/stats"))[1]["paused"] is True
        assert (await stage.post(app, "/queues/nobody/pause"))[0] == 404
        assert (await stage.post(app, "/queues/jobs.quarantine/pause"))[0] == 404
