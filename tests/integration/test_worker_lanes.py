"""Lanes: from the token to its acknowledgement, and what a breaker's gate does to them."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from uuid import UUID

import pytest

from jobkit import Permanent, RetryLater, TransientError
from jobkit.domain.breaker import BreakerState
from jobkit.domain.job import JobState, QuarantineReason, Token
from jobkit.domain.pace import Pace
from jobkit.handling import JobContext
from jobkit.ports import Dispatch
from tests.integration.stage import Place, Stage, Trade, eventually, succeed
from worker.app import WorkerApp


def breaker(app: WorkerApp, job_type: str) -> BreakerState:
    return app.organs.breakers.of(job_type).record.state


async def reaches_state(app: WorkerApp, job_type: str, state: BreakerState, patience: float = 10) -> None:
    async def read() -> BreakerState:
        return breaker(app, job_type)

    await eventually(read, lambda found: found is state, patience)


def in_order(found: list[UUID], expected: list[UUID]) -> bool:
    """As far as sixteen have an order that start at once, in two batches of claims."""
    places = {job_id: n for n, job_id in enumerate(expected)}
    return set(found) == set(expected) and all(abs(places[i] - n) < 16 for n, i in enumerate(found))


async def trip(stage: Stage, trade: Trade, app: WorkerApp, code: str = "API_TIMEOUT") -> None:
    """Fail one job after the other until the breaker opens; none is left behind."""
    trade.fail(lambda: TransientError(code))
    while breaker(app, trade.job_type) is BreakerState.CLOSED:
        await stage.reaches(await stage.submit(trade.job_type, max_attempts=1), JobState.QUARANTINED)
        # What this failure comes to: another job would be held meanwhile, and then left behind.
        await app.organs.breakers.of(trade.job_type).decided()
    await reaches_state(app, trade.job_type, BreakerState.OPEN)


async def test_a_job_runs_and_its_result_is_read(place: Place) -> None:
    email = Trade(place.type("email"))

    async def act(job: JobContext) -> dict[str, object]:
        return {"to": job.payload["to"], "attempt": job.attempt}

    email.act = act
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.worker(email)
        job = await stage.reaches(await stage.submit(email.job_type, {"to": "you"}), JobState.SUCCEEDED)
    assert job.result == b'{"to":"you","attempt":1}'
    assert (job.attempts, job.deliveries, job.holds) == (1, 1, 0)


async def test_a_worker_learns_of_a_new_type_while_it_runs(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        await stage.worker(SIMULATE="1")
        job_id = await stage.submit(embedded.type("never-seen"))
        await stage.reaches(job_id, JobState.SUCCEEDED)


async def test_two_looks_at_once_open_one_lane(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        app = await stage.worker(SIMULATE="1")
        await stage.world.types.ensure([email.job_type], 10)
        await asyncio.gather(*(app.organs.lanes.learn() for _ in range(5)))
        names = [task.get_name() for task in asyncio.all_tasks()]
    assert names.count(f"lane-{email.job_type}") == 1


async def test_a_lane_runs_its_concurrency_at_once_and_prefetches_no_more(place: Place) -> None:
    email = Trade(place.type("email"))
    go = email.hang()
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        ids = await stage.submit_many(email.job_type, 20)
        await email.began(16)
        assert app.organs.lanes.in_hand[email.job_type] == 0
        broker = app.organs.publisher._dispatcher

        async def depth() -> int:
            return await broker.depth(email.job_type)

        await eventually(depth, lambda ready: ready == 4)
        go.set()
        await stage.all_reach(ids, JobState.SUCCEEDED)
    assert email.most == 16
    assert in_order(email.ids, ids)


async def test_a_retry_goes_through_the_ladder(place: Place) -> None:
    email = Trade(place.type("email"))

    async def act(job: JobContext) -> None:
        if job.attempt == 1:
            raise TransientError("API_TIMEOUT", "slow")

    email.act = act
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.worker(email)
        job = await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
    assert (job.attempts, job.deliveries) == (2, 2)
    assert [run.error.code for run in job.history if run.error] == ["API_TIMEOUT"]


async def test_an_open_breaker_holds_jobs_in_order_and_burns_nothing(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="3600", MAX_COOLDOWN="3600")
        await trip(stage, email, app)
        settled = len(email.begun)
        held = [await stage.submit(email.job_type) for _ in range(40)]
        jobs = await stage.all_reach(held, JobState.QUARANTINED)
        assert {job.quarantine.reason for job in jobs if job.quarantine} == {QuarantineReason.BREAKER_OPEN}
        await asyncio.sleep(0.5)
        jobs = await stage.all_reach(held, JobState.QUARANTINED)
        assert [(job.attempts, job.deliveries) for job in jobs] == [(0, 0)] * 40
        assert len(email.begun) == settled
        before = {job.job_id: job.update_time for job in jobs}
        assert before == {
            job.job_id: job.update_time for job in await stage.all_reach(held, JobState.QUARANTINED)
        }


async def test_what_was_prefetched_when_it_opened_goes_back_in_order_and_unburned(place: Place) -> None:
    """The jobs behind the failing ones are in the worker's hand: how many claims slip through?"""
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        app = await stage.worker(email, COOLDOWN_PERIOD="3600", MAX_COOLDOWN="3600")
        email.fail(lambda: TransientError("API_TIMEOUT"))
        ids = await stage.submit_many(email.job_type, 120)
        await reaches_state(app, email.job_type, BreakerState.OPEN)

        async def busy() -> int:
            return len(app.organs.claims)

        await eventually(busy, lambda running: running == 0)
        found = await stage.world.reader.get(ids)
        jobs = [found[job_id] for job_id in ids]
        run = len(email.begun)
        slipped = sum(job.deliveries for job in jobs) - run
        print(f"{run} ran, {slipped} claims slipped through")
        assert 5 <= run <= 48  # the five that it takes, and what was in flight beside them
        assert 0 <= slipped <= 16
        untouched = [job for job in jobs if job.deliveries == 0]
        assert len(untouched) >= 120 - 64
        email.act = succeed
        began = len(email.begun)
        await stage.post(plane, f"/breakers/{email.job_type}/reset")
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=20)
    fresh = [job.job_id for job in untouched]
    assert in_order([job_id for job_id in email.ids[began:] if job_id in fresh], fresh)


async def test_after_it_closes_a_lane_starts_small(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        app = await stage.worker(email, COOLDOWN_PERIOD="3600", MAX_COOLDOWN="3600")
        await trip(stage, email, app)
        await stage.submit_many(email.job_type, 20)
        go, before = email.hang(), len(email.begun)
        email.most = 0
        await stage.post(plane, f"/breakers/{email.job_type}/reset")
        await email.began(before + 1)
        await asyncio.sleep(0.8)
        # None of them has answered yet, so there is no reason for more.
        assert 1 <= email.running <= Pace(1).slots
        go.set()
        await email.began(before + 20)


async def test_one_job_probes_with_one_permit_across_two_workers(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        first = await stage.worker(email, COOLDOWN_PERIOD="0.5")
        second = await stage.worker(email, COOLDOWN_PERIOD="0.5")
        await trip(stage, email, first)
        await reaches_state(second, email.job_type, BreakerState.OPEN)
        held = await stage.submit_many(email.job_type, 10)
        go, before = email.hang(), len(email.begun)
        await email.began(before + 1)
        await asyncio.sleep(1)
        assert len(email.begun) == before + 1
        assert breaker(first, email.job_type) is BreakerState.HALF_OPEN
        go.set()
        await stage.all_reach(held, JobState.SUCCEEDED)
        await reaches_state(first, email.job_type, BreakerState.CLOSED)
        await reaches_state(second, email.job_type, BreakerState.CLOSED)


async def test_a_quiet_type_heals_when_a_job_arrives(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="0.3")
        await trip(stage, email, app)
        email.act = succeed
        await reaches_state(app, email.job_type, BreakerState.HALF_OPEN)
        job_id = await stage.submit(email.job_type)
        await stage.reaches(job_id, JobState.SUCCEEDED)
        await reaches_state(app, email.job_type, BreakerState.CLOSED)


async def test_a_probe_that_fails_is_refunded_and_doubles_the_cooldown(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="0.3")
        await trip(stage, email, app)
        job_id = await stage.submit(email.job_type, max_attempts=1)

        async def reopened() -> int:
            return app.organs.breakers.of(email.job_type).record.reopened

        await eventually(reopened, lambda times: times >= 2)
        record = app.organs.breakers.of(email.job_type).record
        assert record.opened_at is not None
        assert record.open_until is not None
        plain = 300 * 2**record.reopened
        assert 0.9 * plain <= record.open_until - record.opened_at <= 1.1 * plain
        assert (await stage.job(job_id)).attempts == 0
        email.act = succeed
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
        assert job.attempts == 1
        await reaches_state(app, email.job_type, BreakerState.CLOSED)


async def test_a_bad_job_as_a_probe_says_nothing_and_another_becomes_the_probe(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="0.5")
        await trip(stage, email, app)

        async def act(job: JobContext) -> None:
            if job.payload.get("bad"):
                raise Permanent("VALIDATION_ERROR")

        email.act = act
        bad = [await stage.submit(email.job_type, {"bad": True}) for _ in range(2)]
        good = await stage.submit(email.job_type)
        await stage.reaches(good, JobState.SUCCEEDED)
        for job in await stage.all_reach(bad, JobState.QUARANTINED):
            assert job.quarantine is not None
            assert job.quarantine.reason is QuarantineReason.NON_RETRYABLE
        record = app.organs.breakers.of(email.job_type).record
        moves = [move.to_state for move in record.transitions]
        assert moves == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


@pytest.mark.parametrize("probing", [False, True])
async def test_a_wide_retry_later_opens_until_exactly_then(embedded: Place, probing: bool) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="0.3")
        if probing:
            await trip(stage, email, app)
        email.fail(lambda: RetryLater(600, scope="type"))
        job_id = await stage.submit(email.job_type)

        async def until() -> int:
            record = app.organs.breakers.of(email.job_type).record
            length = (record.open_until or 0) - (record.opened_at or 0)
            return length if record.state is BreakerState.OPEN else 0

        await eventually(until, lambda length: length > 590_000)
        assert await until() == 600_000
        assert (await stage.job(job_id)).attempts == 0
        runs = len(email.begun)
        await asyncio.sleep(0.5)
        assert len(email.begun) == runs


async def test_a_wide_retry_later_is_capped(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    email.fail(lambda: RetryLater(10**6, scope="type"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, MAX_RETRY_AFTER="100")
        job_id = await stage.submit(email.job_type)
        await reaches_state(app, email.job_type, BreakerState.OPEN)
        record = app.organs.breakers.of(email.job_type).record
        assert (record.open_until or 0) - (record.opened_at or 0) == 100_000
        job = await stage.reaches(job_id, JobState.RETRYING)
        assert job.due_time - job.update_time <= timedelta(seconds=100)


async def test_200_hanging_jobs_of_several_types_leave_room_for_another(place: Place) -> None:
    hanging = [Trade(place.type(f"hanging-{n}")) for n in range(4)]
    other = Trade(place.type("other"))
    gates = [trade.hang() for trade in hanging]
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.worker(*hanging, other, WORKER_MAX_CONCURRENCY="32")
        for trade in hanging:
            await stage.submit_many(trade.job_type, 50)
            await trade.began(1)
        started = asyncio.get_running_loop().time()
        await stage.reaches(await stage.submit(other.job_type), JobState.SUCCEEDED)
        assert asyncio.get_running_loop().time() - started < 5
        assert sum(trade.running for trade in hanging) < 32
        for gate in gates:
            gate.set()


async def test_handlers_that_ignore_their_deadline_keep_their_slots(
    embedded: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    stubborn = Trade(embedded.type("stubborn"), attempt_timeout=0.1, max_attempts=1)
    go = asyncio.Event()

    async def ignore(job: JobContext) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    stubborn.act = ignore
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(stubborn, WORKER_CONCURRENCY="2", FAILURE_THRESHOLD="100")
        ids = await stage.submit_many(stubborn.job_type, 3)
        await stage.all_reach(ids[:2], JobState.QUARANTINED)
        await asyncio.sleep(0.5)
        assert app.organs.executor.strays == {stubborn.job_type: 2}
        assert len(stubborn.begun) == 2
        go.set()
        await stage.reaches(ids[2], JobState.SUCCEEDED)


async def test_a_surplus_token_is_dropped(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        go = email.hang()
        job_id = await stage.submit(email.job_type)
        await email.began(1)
        broker = app.organs.publisher._dispatcher
        surplus = Dispatch(Token(job_id, email.job_type))
        assert await broker.publish([surplus]) == [True]
        await asyncio.sleep(0.2)
        assert await broker.depth(email.job_type) == 0
        go.set()
        job = await stage.reaches(job_id, JobState.SUCCEEDED)
        await broker.publish([surplus])
        last = await stage.submit(email.job_type)
        await stage.reaches(last, JobState.SUCCEEDED)
    assert email.ids == [job_id, last]
    assert job.deliveries == 1
