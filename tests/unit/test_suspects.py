"""Suspects run alone; bystanders of a crash are never convicted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import NO_TRACE, ClaimedJob, QuarantineReason
from jobkit.domain.outcome import Convicted, Interrupted, Outcome, Succeeded
from jobkit.domain.retry import Isolate, Postpone, RetryPolicy, decide_next
from jobkit.ports import Held
from worker.solitude import Solitude
from worker.suspects import Suspects

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_job(losses: int = 0, losses_alone: int = 0) -> ClaimedJob:
    return ClaimedJob(
        job_id=uuid4(),
        job_type="email",
        payload=b"{}",
        delivery=losses + 1,
        attempts=0,
        attempts_base=0,
        losses=losses,
        losses_alone=losses_alone,
        max_attempts=None,
        attempt_timeout=None,
        labels={},
        start_time=NOW,
        due_time=NOW,
        create_time=NOW,
        history=(),
        trace=NO_TRACE,
    )


class Rows:
    """Remembers what was marked; `answer` is what the database says."""

    def __init__(self, answer: bool | Exception = True) -> None:
        self.marked: list[Held] = []
        self._answer = answer

    async def mark_alone(self, held: Held) -> bool:
        self.marked.append(held)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Work:
    """Runs that end when they are told to."""

    def __init__(self) -> None:
        self.running: list[ClaimedJob] = []
        self.order: list[ClaimedJob] = []
        self.most = 0
        self.reserved: list[bool] = []
        self.gate = asyncio.Event()
        self.started = asyncio.Event()

    async def run(self, job: ClaimedJob) -> Outcome:
        self.running.append(job)
        self.order.append(job)
        self.most = max(self.most, len(self.running))
        self.started.set()
        await self.gate.wait()
        await asyncio.sleep(0)
        self.running.remove(job)
        return Succeeded()


def suspects(work: Work, rows: Any, *, patience: float = 10) -> Suspects:
    return Suspects(work.run, rows, max_losses=3, patience=patience, reserve=work.reserved.append)


async def test_ordinary_jobs_run_side_by_side_and_touch_no_row() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows)
    runs = [asyncio.create_task(court.run(a_job(losses))) for losses in (0, 1, 0)]
    await asyncio.sleep(0)
    assert len(work.running) == 3
    work.gate.set()
    assert await asyncio.gather(*runs) == [Succeeded()] * 3
    assert rows.marked == []


async def test_a_suspect_waits_for_the_process_to_get_empty_and_keeps_it_empty() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows)
    before, suspect, after = a_job(), a_job(2), a_job()
    first = asyncio.create_task(court.run(before))
    await work.started.wait()
    second = asyncio.create_task(court.run(suspect))
    await asyncio.sleep(0)
    assert work.reserved == [True]
    under_way = asyncio.create_task(court.run(after))
    await asyncio.sleep(0.01)
    assert work.order == [before, after]
    assert rows.marked == []
    work.gate.set()
    assert list(await asyncio.gather(first, second, under_way)) == [Succeeded()] * 3
    assert work.order == [before, after, suspect]
    assert rows.marked == [Held(suspect.job_id, suspect.delivery)]
    assert work.reserved == [True, False]


async def test_what_was_being_claimed_when_a_suspect_starts_waits_for_its_end() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows)
    suspect = asyncio.create_task(court.run(a_job(2)))
    await work.started.wait()
    late = asyncio.create_task(court.run(a_job()))
    await asyncio.sleep(0.01)
    assert len(work.running) == 1
    work.gate.set()
    assert list(await asyncio.gather(suspect, late)) == [Succeeded()] * 2
    assert work.most == 1


async def test_a_suspect_that_cannot_be_alone_is_put_off_and_the_others_go_on() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows, patience=0.01)
    first = asyncio.create_task(court.run(a_job()))
    await work.started.wait()
    assert await court.run(a_job(2)) is Interrupted.POSTPONED
    again = asyncio.create_task(court.run(a_job()))
    await asyncio.sleep(0)
    assert len(work.running) == 2
    work.gate.set()
    await asyncio.gather(first, again)


async def test_two_suspects_run_one_after_the_other() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows)
    runs = [asyncio.create_task(court.run(a_job(losses))) for losses in (2, 5)]
    await work.started.wait()
    await asyncio.sleep(0.01)
    assert len(work.running) == 1
    work.gate.set()
    assert await asyncio.gather(*runs) == [Succeeded()] * 2
    assert work.most == 1


async def test_a_suspect_whose_turn_does_not_come_is_put_off() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows, patience=0.05)
    first = asyncio.create_task(court.run(a_job(2)))
    await work.started.wait()
    assert await court.run(a_job(5)) is Interrupted.POSTPONED
    work.gate.set()
    assert await first == Succeeded()


async def test_between_two_suspects_those_go_that_were_kept_waiting() -> None:
    work, rows = Work(), Rows()
    court = suspects(work, rows)
    first = asyncio.create_task(court.run(a_job(2)))
    await work.started.wait()
    second = asyncio.create_task(court.run(a_job(2)))
    ordinary = [asyncio.create_task(court.run(a_job())) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert len(work.running) == 1
    work.gate.set()
    assert await asyncio.gather(first, second, *ordinary) == [Succeeded()] * 5
    assert [job.losses for job in work.order] == [2, 0, 0, 0, 2]


async def test_it_does_not_run_before_the_row_says_that_it_is_alone() -> None:
    work = Work()
    away = suspects(work, Rows(store_unavailable("database")))
    assert await away.run(a_job(2)) is Interrupted.POSTPONED
    lost = suspects(work, Rows(False))
    assert await lost.run(a_job(2)) is Interrupted.LOST
    assert not work.started.is_set()


async def test_three_losses_alone_convict() -> None:
    work = Work()
    assert await suspects(work, Rows()).run(a_job(5, 3)) == Convicted(3)
    assert not work.started.is_set()
    many_as_a_bystander = asyncio.create_task(suspects(work, Rows()).run(a_job(50, 2)))
    await work.started.wait()
    work.gate.set()
    assert await many_as_a_bystander == Succeeded()


async def test_ordinary_jobs_get_as_much_time_as_they_were_kept_from() -> None:
    told: list[tuple[bool, float]] = []
    now = asyncio.get_running_loop().time
    solitude = Solitude(lambda reserved: told.append((reserved, now())))

    async def suspect(seconds: float) -> None:
        async with solitude.alone(10) as empty:
            assert empty
            await asyncio.sleep(seconds)

    await suspect(0.1)
    await asyncio.gather(suspect(0.01), suspect(0.01))
    assert [reserved for reserved, _ in told] == [True, False, True, False]
    began, ended, again, _ = (at for _, at in told)
    assert again - ended >= ended - began >= 0.1


async def test_solitude_is_free_again_after_a_failure() -> None:
    solitude = Solitude(lambda _: None)
    try:
        async with solitude.alone(1) as empty:
            assert empty
            raise RuntimeError("the run failed")
    except RuntimeError:
        pass
    async with solitude:
        pass


def test_what_follows() -> None:
    policy = RetryPolicy()
    decision = decide_next(Convicted(3), a_job(3, 3), policy, 0.5)
    assert isinstance(decision, Isolate)
    assert (decision.reason, decision.error.code, decision.error.retryable) == (
        QuarantineReason.POISON,
        "WORKER_LOST",
        False,
    )
    assert isinstance(decide_next(Interrupted.POSTPONED, a_job(2), policy, 0.5), Postpone)
