"""Runs of claimed jobs: deadlines, and being told to stop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from jobkit.domain.job import ClaimedJob, JobError
from jobkit.domain.outcome import Failed, Interrupted, Outcome, Succeeded
from jobkit.handling import JobContext
from tests.unit.executor_kit import (
    QUICK,
    SHORT,
    Bench,
    claimed,
    code_of,
    describe,
)
from worker.executor import Limits

# -- deadlines -----------------------------------------------------------------------------------------------------


async def test_a_run_over_its_deadline_is_cancelled_and_counts() -> None:
    cleaned = asyncio.Event()

    async def handler(job: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    bench = Bench(handler)
    outcome = await bench.run(claimed(timeout=SHORT))
    assert outcome == Failed(JobError("API_TIMEOUT", "the attempt took longer than 0.05 s", True), True)
    assert cleaned.is_set()
    assert bench.counts == (0, 0, 0)


async def test_a_task_that_ignores_its_cancellation_keeps_its_slot_until_it_ends() -> None:
    release = asyncio.Event()

    async def stubborn(job: JobContext) -> dict[str, Any]:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return {"late": True}

    bench = Bench(stubborn)
    assert code_of(await bench.run(claimed(timeout=SHORT))) == "API_TIMEOUT"
    assert bench.counts == (0, 1, 1)
    release.set()
    assert await bench.freed.get() == "t"
    assert bench.counts == (0, 0, 0)


async def test_swallowing_the_cancellation_is_no_success() -> None:
    async def sloppy(job: JobContext) -> dict[str, Any]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"done": False}

    assert code_of(await Bench(sloppy).run(claimed(timeout=SHORT))) == "API_TIMEOUT"


async def test_a_thread_that_ignores_its_deadline_keeps_its_slot(release: threading.Event) -> None:
    def stubborn(job: JobContext) -> None:
        release.wait(10)

    bench = Bench(stubborn)
    assert code_of(await bench.run(claimed(timeout=SHORT))) == "API_TIMEOUT"
    assert bench.counts == (0, 1, 1)
    release.set()
    assert await bench.freed.get() == "t"
    assert bench.counts == (0, 0, 0)


async def test_a_thread_sees_that_its_time_is_up() -> None:
    def polite(job: JobContext) -> dict[str, Any]:
        while not job.cancelled:
            pass
        return {"partial": True}

    bench = Bench(polite)
    assert code_of(await bench.run(claimed(timeout=SHORT))) == "API_TIMEOUT"
    assert bench.counts == (0, 0, 0)


async def test_a_thread_that_succeeds_just_after_its_deadline_has_done_its_work() -> None:
    def late(job: JobContext) -> dict[str, Any]:
        threading.Event().wait(0.08)
        return {"done": True}

    patient = Limits(grace=timedelta(seconds=5))
    assert await Bench(late, patient).run(claimed(timeout=SHORT)) == Succeeded(b'{"done":true}')


async def test_a_job_that_found_no_thread_goes_back_unburned(release: threading.Event) -> None:
    bench = Bench(lambda job: release.wait(10) and None)
    hung = [asyncio.create_task(bench.run()) for _ in range(2)]
    await asyncio.sleep(0)
    assert await bench.run(claimed(timeout=SHORT)) is Interrupted.DRAINED
    release.set()
    assert await asyncio.gather(*hung) == [Succeeded(), Succeeded()]
    assert bench.counts == (0, 0, 0)


# -- being told to stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", list(Interrupted))
async def test_a_task_that_is_stopped_says_why(why: Interrupted) -> None:
    started = asyncio.Event()

    async def handler(job: JobContext) -> None:
        started.set()
        await asyncio.Event().wait()

    bench, job = Bench(handler), claimed()
    running = asyncio.create_task(bench.run(job))
    await started.wait()
    assert bench.counts == (1, 0, 1)
    assert bench.executor.cancel(job.job_id, why)
    assert await running is why
    assert bench.counts == (0, 0, 0)
    assert not bench.executor.cancel(job.job_id, why)


async def start_thread(bench: Bench, job: ClaimedJob, started: threading.Event) -> asyncio.Task[Outcome]:
    running = asyncio.create_task(bench.run(job))
    await asyncio.to_thread(started.wait, 5)
    return running


@pytest.mark.parametrize("why", list(Interrupted))
async def test_a_thread_that_notices_has_been_stopped_even_if_it_just_returns(why: Interrupted) -> None:
    started = threading.Event()

    def handler(job: JobContext) -> dict[str, Any]:
        started.set()
        while not job.cancelled:
            pass
        return {}

    bench, job = Bench(handler), claimed()
    running = await start_thread(bench, job, started)
    bench.executor.cancel(job.job_id, why)
    assert await running is why


@pytest.mark.parametrize(
    ("why", "outcome"),
    [
        (Interrupted.CANCELLED, Succeeded()),
        (Interrupted.DRAINED, Succeeded()),
        (Interrupted.LOST, Interrupted.LOST),
    ],
)
async def test_a_success_before_the_handler_noticed_stands_unless_the_claim_is_lost(
    why: Interrupted, outcome: Outcome, release: threading.Event
) -> None:
    started = threading.Event()

    def handler(job: JobContext) -> None:
        started.set()
        release.wait(10)

    bench, job = Bench(handler), claimed()
    running = await start_thread(bench, job, started)
    bench.executor.cancel(job.job_id, why)
    release.set()
    assert await running == outcome


async def test_a_cancelled_thread_is_given_until_its_deadline_and_a_drained_one_is_not(
    release: threading.Event,
) -> None:
    started = threading.Event()

    def handler(job: JobContext) -> None:
        started.set()
        release.wait(10)

    bench, job = Bench(handler), claimed()
    running = await start_thread(bench, job, started)
    bench.executor.cancel(job.job_id, Interrupted.CANCELLED)
    done, _ = await asyncio.wait([running], timeout=3 * QUICK.grace.total_seconds())
    assert not done
    bench.executor.cancel(job.job_id, Interrupted.DRAINED)
    assert await running is Interrupted.CANCELLED  # the first reason stands
    assert bench.counts == (0, 1, 1)


async def test_being_told_again_changes_nothing_but_a_lost_claim_does() -> None:
    started, stops = asyncio.Event(), 0

    async def slow_to_clean_up(job: JobContext) -> None:
        nonlocal stops
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stops += 1
            await asyncio.sleep(0.03)
            raise

    bench, job = Bench(slow_to_clean_up), claimed()
    running = asyncio.create_task(bench.run(job))
    await started.wait()
    for why in (Interrupted.CANCELLED, Interrupted.DRAINED, Interrupted.LOST):
        bench.executor.cancel(job.job_id, why)
        await asyncio.sleep(0)
    assert await running is Interrupted.LOST
    assert stops == 1


async def test_only_the_named_delivery_is_stopped() -> None:
    started = asyncio.Event()

    async def handler(job: JobContext) -> None:
        started.set()
        await asyncio.Event().wait()

    bench, job = Bench(handler), claimed()
    running = asyncio.create_task(bench.run(job))
    await started.wait()
    assert not bench.executor.cancel(job.job_id, Interrupted.LOST, delivery=2)
    assert bench.executor.cancel(job.job_id, Interrupted.LOST, delivery=3)
    assert await running is Interrupted.LOST


async def test_closing_stops_what_runs() -> None:
    async def handler(job: JobContext) -> None:
        await asyncio.Event().wait()

    bench = Bench(handler)
    running = [asyncio.create_task(bench.run()) for _ in range(3)]
    await asyncio.sleep(0)
    bench.executor.close()
    bench.executor.close()
    assert await asyncio.gather(*running) == [Interrupted.DRAINED] * 3


async def test_a_caller_that_goes_away_takes_the_handler_with_it() -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def handler(job: JobContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    bench = Bench(handler)
    running = asyncio.create_task(bench.run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await stopped.wait()
    await asyncio.sleep(0)
    assert bench.counts == (0, 0, 0)


async def test_a_type_without_a_handler_goes_back() -> None:
    assert await Bench(describe).run(claimed("other")) is Interrupted.DRAINED
