"""Claims: renewed while they are needed, cancelled on request, lost without a trace; progress on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit import TransientError
from jobkit.adapters.sql.tables import jobs
from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import ClaimedJob, Job, JobState, TraceContext
from jobkit.domain.outcome import Interrupted
from jobkit.handling import JobContext
from jobkit.host.channels import CANCELS
from jobkit.host.world import World, new_id
from jobkit.ports import Held
from tests.integration.stage import Place, Stage, Trade, eventually
from worker.claimer import Claimer
from worker.claims import Claims


async def change(world: World, job_id: UUID, **values: object) -> None:
    """Do to a row what a crash or another worker would."""
    statement = sa.update(jobs).where(jobs.c.job_id == job_id).values(**values)
    await world.database.write(lambda connection: connection.execute(statement))


async def column(world: World, job_id: UUID, name: str) -> int:
    statement = sa.select(jobs.c[name]).where(jobs.c.job_id == job_id)

    async def work(connection: sa.ext.asyncio.AsyncConnection) -> int:  # type: ignore[name-defined]
        return (await connection.execute(statement)).scalar_one()

    return await world.database.read(work)


async def test_renewal_keeps_a_job_that_runs_longer_than_its_lease(place: Place) -> None:
    email = Trade(place.type("email"))
    go = email.hang()
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.controlplane(JOB_LEASE="1")
        await stage.worker(email, JOB_LEASE="1")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        first = await column(stage.world, job_id, "lease_until")
        await asyncio.sleep(2.5)
        assert await column(stage.world, job_id, "lease_until") > first + 1_000
        go.set()
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert (job.deliveries, len(email.begun)) == (1, 1)


async def test_a_cancel_reaches_a_running_handler_at_once(place: Place) -> None:
    email = Trade(place.type("email"))
    email.hang()
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email, JOB_LEASE="600")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        await eventually(lambda: held(app), lambda ids: job_id in ids)
        await stage.api.jobs.cancel(job_id)
        await stage.reaches(job_id, JobState.CANCELLED)
    assert email.begun[0].cancelled


async def held(app: object) -> set[UUID]:
    return set(app.organs.claims._claims)  # type: ignore[attr-defined]


async def test_a_cancel_whose_signal_was_lost_is_found_by_the_next_renewal(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    email.hang()
    async with Stage(embedded) as stage:
        await stage.jobapi()
        await stage.worker(email, JOB_LEASE="3")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        await stage.world.steering.cancel(job_id)
        await stage.reaches(job_id, JobState.CANCELLED)


async def test_a_signal_for_somebody_elses_job_renews_nothing(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        app = await stage.worker(SIMULATE="1")
        assert not app.organs.claims.hurry([new_id()])
        await stage.world.signals.send(CANCELS, [new_id()])


async def test_a_lost_claim_cancels_the_handler_and_writes_nothing(place: Place) -> None:
    email = Trade(place.type("email"))
    stopped = asyncio.Event()

    async def act(job: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    email.act = act
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.worker(email, JOB_LEASE="1")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        await change(stage.world, job_id, deliveries=7, worker_id="another", lease_until=2**50)
        async with asyncio.timeout(5):
            await stopped.wait()
        await asyncio.sleep(0.2)
        job = await stage.job(job_id)
    assert (job.state, job.deliveries, job.attempts) == (JobState.RUNNING, 7, 0)


async def test_an_outcome_of_a_lost_claim_changes_nothing(place: Place) -> None:
    email = Trade(place.type("email"))
    go = email.hang()
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.worker(email, JOB_LEASE="60")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        await change(stage.world, job_id, deliveries=2, worker_id="another", lease_until=2**50)
        go.set()
        await asyncio.sleep(0.3)
        assert (await stage.job(job_id)).state is JobState.RUNNING


async def test_a_redelivered_token_of_a_running_job_waits_for_the_lease(real: Place) -> None:
    """A worker's channel dies while it runs the job: its token comes again, and must not be dropped."""
    email = Trade(real.type("email"))
    go = email.hang()
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email, JOB_LEASE="1")
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        # As if somebody else ran it, and then died: renewals stop, and the row stays RUNNING.
        now = await stage.world.database.now()
        await change(stage.world, job_id, deliveries=2, worker_id="dead", lease_until=now + 1_500)
        lane = app.organs.lanes._lanes[email.job_type]
        assert lane._lane is not None
        await lane._lane.close()
        go.set()
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert job.deliveries == 3
    assert job.finish_time is not None
    assert job.finish_time > datetime.fromtimestamp((now + 1_500) / 1000, UTC)


async def test_progress_is_written_once_a_second_and_at_the_end(place: Place) -> None:
    email = Trade(place.type("email"))
    finish = asyncio.Event()

    async def act(job: JobContext) -> None:
        job.progress(1, 10)
        job.progress(2, 10)
        await finish.wait()
        job.progress(10, 10)

    email.act = act
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.worker(email)
        job_id = await stage.submit(email.job_type)
        job = await eventually(lambda: stage.job(job_id), lambda job: job.progress is not None)
        assert job.progress == (2, 10)
        finish.set()
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
    assert job.progress == (10, 10)


# -- the parts themselves, over a store that can be away -------------------------------------------------------------


class Store:
    """What `Claims` and `Claimer` need of the port."""

    def __init__(self) -> None:
        self.marks: list[list[tuple[Held, int, int]]] = []
        self.claims: list[UUID] = []
        self.away = 0
        self.go = asyncio.Event()
        self.go.set()

    async def progress(self, marks: Sequence[tuple[Held, int, int]]) -> None:
        await self.go.wait()
        self._check()
        self.marks.append(list(marks))

    async def claim(
        self, ids: Sequence[UUID], *, claim_id: UUID, worker_id: str, lease: timedelta
    ) -> dict[UUID, ClaimedJob]:
        self.claims.append(claim_id)
        self._check()
        return {job_id: claimed(job_id) for job_id in ids}

    def _check(self) -> None:
        if self.away:
            self.away -= 1
            raise store_unavailable("database")


def claimed(job_id: UUID) -> ClaimedJob:
    now = datetime.fromtimestamp(1_700_000_000, UTC)
    job = Job(job_id, "email", JobState.QUEUED, b"{}", now, now, now)
    common = {name: getattr(job, name) for name in ("job_id", "job_type", "payload", "labels", "history")}
    rest = {"max_attempts": None, "attempt_timeout": None, "trace": TraceContext()}
    times = {"start_time": now, "due_time": now, "create_time": now}
    counts = {"delivery": 1, "attempts": 0, "attempts_base": 0, "losses": 0, "losses_alone": 0}
    return ClaimedJob(**common, **rest, **times, **counts)


def claims_over(store: Store) -> Claims:
    def interrupt(job_id: UUID, why: Interrupted, delivery: int) -> None:
        pytest.fail("nobody was to be interrupted")

    return Claims(store, timedelta(seconds=15), interrupt)  # type: ignore[arg-type]


async def test_progress_that_could_not_be_written_is_written_later() -> None:
    store = Store()
    claims = claims_over(store)
    job = claimed(new_id())
    claims.add(job)
    claims.note_progress(job, 1, 2)
    store.away = 1
    await claims.flush_progress(job)
    await claims.write_progress()
    await claims.write_progress()
    assert store.marks == [[(Held(job.job_id, 1), 1, 2)]]


async def test_progress_reported_during_a_write_is_not_lost() -> None:
    store = Store()
    claims = claims_over(store)
    job = claimed(new_id())
    claims.add(job)
    claims.note_progress(job, 1, 2)
    store.go.clear()
    writing = asyncio.create_task(claims.write_progress())
    await asyncio.sleep(0.01)
    claims.note_progress(job, 2, 2)
    flushing = asyncio.create_task(claims.flush_progress(job))
    store.go.set()
    await asyncio.gather(writing, flushing)
    assert [marks[0][1:] for marks in store.marks] == [(1, 2), (2, 2)]


async def test_progress_of_an_earlier_delivery_is_ignored() -> None:
    store = Store()
    claims = claims_over(store)
    job = claimed(new_id())
    claims.add(job)
    claims.note_progress(replace(job, delivery=2), 1, 2)
    claims.remove(replace(job, delivery=2))
    assert len(claims) == 1
    await claims.write_progress()
    assert store.marks == []


async def test_a_claim_is_repeated_under_the_same_id_and_gives_up_after_a_while() -> None:
    store = Store()
    claimer = Claimer(store, "me", timedelta(seconds=15), new_id)  # type: ignore[arg-type]
    store.away = 2
    assert isinstance(await claimer.claim(new_id()), ClaimedJob)
    assert len(store.claims) == 3
    assert len(set(store.claims)) == 1
    store.away = 3
    with pytest.raises(Exception, match="database is unavailable"):
        await claimer.claim(new_id())
    assert claimer.take_fronts() == {"email": 1_700_000_000_000}
    assert claimer.take_fronts() == {}


async def test_one_id_twice_in_a_batch_is_claimed_once() -> None:
    claimer = Claimer(Store(), "me", timedelta(seconds=15), new_id)  # type: ignore[arg-type]
    job_id = new_id()
    first, second = await asyncio.gather(claimer.claim(job_id), claimer.claim(job_id))
    assert isinstance(first, ClaimedJob)
    assert not isinstance(second, ClaimedJob)


async def test_a_failed_run_is_in_the_history_with_its_worker(embedded: Place) -> None:
    email = Trade(embedded.type("email"), max_attempts=1)
    email.fail(lambda: TransientError("API_TIMEOUT", "slow"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        job = await stage.reaches(await stage.submit(email.job_type), JobState.QUARANTINED)
    (run,) = job.history
    assert (run.worker_id, run.delivery) == (app.organs.worker_id, 1)
    assert run.error is not None
    assert (run.error.code, run.error.message) == ("API_TIMEOUT", "slow")
