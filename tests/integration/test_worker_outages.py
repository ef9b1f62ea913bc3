"""The broker and the database go away and come back; the worker goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import aio_pika
import asyncpg
import pytest

from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import JobState
from jobkit.handling import JobContext
from tests.integration.stage import Place, Stage, Trade, eventually
from worker import lane
from worker.app import WorkerApp
from worker.claimer import TRIES

SILENCE = timedelta(seconds=10)


@contextlib.asynccontextmanager
async def no_database(place: Place) -> AsyncIterator[None]:
    """Nobody gets into the database, and whoever is in it is thrown out."""
    url = place.environ["DATABASE_URL"]
    name = url.rpartition("/")[2]
    admin = await asyncpg.connect(url.replace(f"/{name}", "/postgres"))
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    finally:
        await admin.close()


def health(app: WorkerApp, name: str):  # type: ignore[no-untyped-def]
    async def read() -> bool | str:
        return app.front.health.info[name]

    return read


async def test_with_the_database_away_nothing_is_lost_or_run_twice(real: Place) -> None:
    email = Trade(real.type("email"))
    go = email.hang()
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email, WORKER_CONCURRENCY="2")
        ids = await stage.submit_many(email.job_type, 4)
        await email.began(2)
        async with no_database(real):
            await eventually(health(app, "database"), lambda up: up is not True)
            assert not app.front.health.ok
            go.set()  # two outcomes wait for the database, and keep their slots
            await asyncio.sleep(0.5)
            assert len(email.begun) == 2
            assert len(app.organs.claims) == 2
        await stage.all_reach(ids, JobState.SUCCEEDED)
        await eventually(health(app, "worker"), lambda up: up is True)
        jobs = [await stage.job(job_id) for job_id in ids]
    assert [job.deliveries for job in jobs] == [1] * 4
    assert len(email.begun) == 4


async def test_a_claim_that_fails_puts_its_token_back(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        await stage.worker(email)
        claim = stage.world.work.claim
        calls = 0

        async def away(*args: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            raise store_unavailable("database")

        async def called() -> int:
            return calls

        monkeypatch.setattr(stage.world.work, "claim", away)
        job_id = await stage.submit(email.job_type)
        await eventually(called, lambda times: times > TRIES)  # it came again
        monkeypatch.setattr(stage.world.work, "claim", claim)
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert (job.attempts, job.deliveries) == (1, 1)


async def test_a_lane_recovers_when_its_queue_is_deleted(
    real: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where whoever publishes next declares it at once, and the broker keeps the dead consumer."""
    monkeypatch.setattr(lane, "SILENT_SECONDS", 1.0)
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
        connection = await aio_pika.connect(real.environ["RABBITMQ_URL"])
        async with connection:
            channel = await connection.channel()
            await channel.queue_delete(f"jobs.main.{email.job_type}")
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
        assert app.organs.lanes.unconsumed == []


async def test_a_lane_whose_channel_closes_comes_back_by_itself(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
        found = app.organs.lanes._lanes[email.job_type]._lane
        await found._session.channel.close()  # type: ignore[union-attr]
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)


async def test_without_the_broker_jobs_are_accepted_and_flow_when_it_is_back(real: Place, rabbitmq) -> None:  # type: ignore[no-untyped-def]
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        api = await stage.jobapi()
        await stage.controlplane()
        app = await stage.worker(email)
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
        rabbitmq.ctl("clear_permissions", "-p", rabbitmq.name, "guest")
        rabbitmq.ctl("close_all_connections", "--vhost", rabbitmq.name, "a test")
        try:
            await eventually(health(app, "rabbitmq"), lambda up: up is not True)
            await eventually(broker_of(api), lambda up: up is not True)
            assert not app.front.health.ok
            assert api.front.health.ok  # it can accept
            ids = [await stage.submit(email.job_type) for _ in range(5)]
            assert {job.state for job in await stage.all_reach(ids, JobState.PENDING)} == {JobState.PENDING}
        finally:
            rabbitmq.ctl("set_permissions", "-p", rabbitmq.name, "guest", ".*", ".*", ".*")
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=20)
        await eventually(health(app, "worker"), lambda up: up is True)


def broker_of(api):  # type: ignore[no-untyped-def]
    async def read() -> bool | str:
        return api.front.health.info["rabbitmq"]

    return read


# -- leaving ------------------------------------------------------------------------------------------------


async def test_leaving_lets_what_runs_finish_and_gives_back_the_rest(place: Place) -> None:
    email = Trade(place.type("email"))
    go = email.hang()
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email, WORKER_CONCURRENCY="2", WORKER_NAME="w1")
        ids = await stage.submit_many(email.job_type, 5)
        await email.began(2)
        leaving = asyncio.create_task(stage.leave(app))
        await eventually(health(app, "worker"), lambda up: up == "draining")
        await asyncio.sleep(0.1)
        go.set()
        await leaving
        jobs = [await stage.job(job_id) for job_id in ids]
        assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2 + [JobState.QUEUED] * 3
        assert [job.deliveries for job in jobs] == [1, 1, 0, 0, 0]
        await stage.worker(email, WORKER_NAME="w2")
        await stage.all_reach(ids, JobState.SUCCEEDED)


async def test_what_does_not_finish_in_the_grace_goes_back_unburned(place: Place) -> None:
    email = Trade(place.type("email"))
    email.hang()
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email, SHUTDOWN_GRACE="0.2")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        await stage.leave(app)
        job = await stage.job(job_id)
        assert (job.state, job.attempts) == (JobState.QUEUED, 0)

        async def act(job: JobContext) -> None:
            """Now it is quick."""

        email.act = act
        await stage.worker(email)
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert (job.attempts, job.deliveries) == (1, 2)


async def test_a_worker_that_left_is_missed_by_nobody(place: Place) -> None:
    async with Stage(place) as stage:
        app = await stage.worker(SIMULATE="1")
        await eventually(lambda: stage.world.presence.served_types(SILENCE), lambda types: "*" in types)
        await stage.leave(app)
        assert await stage.world.presence.served_types(SILENCE) == set()
        assert await stage.world.recovery.take_orphans(app.organs.publisher.session, -SILENCE, 10) == []
