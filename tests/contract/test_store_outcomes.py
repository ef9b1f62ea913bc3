"""The `WorkStore` port, second half: settle. An outcome is written once, under a live claim, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobkit.domain.job import HISTORY_LIMIT, Attempt, JobError, JobState, QuarantineReason
from jobkit.domain.retry import Cancel, Complete, Decision, Forget, Isolate, Release, Retry
from jobkit.ports import Held, Settlement
from tests.contract.store_contract import (
    OTHER_SESSION,
    SESSION,
    TIMED_OUT,
    OnPostgres,
    OnSlowSqlite,
    OnSqlite,
    Store,
    StoreContract,
    at_millis,
    new_id,
)

FAILURES: list[Decision] = [
    Retry(timedelta(seconds=5), TIMED_OUT),
    Isolate(QuarantineReason.RETRIES_EXHAUSTED, TIMED_OUT),
    Release(),
    Cancel(),
]
SUCCESS = Complete(b'{"sent": "\\u0000 \xc3\xa9"}')
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def attempt(delivery: int, message: str = "no answer") -> Attempt:
    return Attempt(delivery, "w1", AT, AT + timedelta(seconds=1), JobError("API_TIMEOUT", message))


class SettleContract(StoreContract):
    async def test_a_success_is_recorded(self, store: Store) -> None:
        job_id = await store.running()
        now = await store.database.now()
        assert await store.settle(job_id, 1, SUCCESS)
        job = await store.get(job_id)
        assert job.state is JobState.SUCCEEDED
        assert (job.result, job.attempts, job.deliveries) == (SUCCESS.result, 1, 1)
        assert job.finish_time is not None
        assert job.finish_time >= at_millis(now)
        assert [(a.delivery, a.error) for a in job.history] == [(1, None)]
        assert job.settled
        assert (await store.row(job_id)).lease_until is None

    async def test_a_success_needs_no_result(self, store: Store) -> None:
        job_id = await store.running()
        assert await store.settle(job_id, 1, Complete(None))
        assert (await store.get(job_id)).result is None

    async def test_a_failure_waits_for_its_retry(self, store: Store) -> None:
        job_id = await store.running()
        now = await store.database.now()
        error = JobError("SMTP_421", "half \ud800, nul \x00, Zoë", retryable=True)
        entry = attempt(1, "half \ud800, nul \x00, Zoë")
        retry = Retry(timedelta(seconds=5), error)
        assert await store.settle(job_id, 1, retry, session=OTHER_SESSION, history=(entry,))
        job, row = await store.get(job_id), await store.row(job_id)
        assert job.state is JobState.RETRYING
        assert (job.attempts, job.deliveries) == (1, 1)
        assert at_millis(now + 5_000) <= job.due_time <= at_millis(now + 7_000)
        assert job.last_error == JobError("SMTP_421", "half ?, nul \ufffd, Zoë")
        assert [(a.delivery, a.start_time, a.error) for a in job.history] == [
            (1, AT, JobError("API_TIMEOUT", "half ?, nul \ufffd, Zoë"))
        ]
        assert (row.session_id, row.lease_until, row.claim_id) == (OTHER_SESSION, None, None)
        assert not job.settled

    async def test_a_retry_without_a_publisher_is_nobodys(self, store: Store) -> None:
        job_id = await store.running()
        assert await store.settle(job_id, 1, Retry(timedelta(hours=1), TIMED_OUT), session=None)
        assert (await store.row(job_id)).session_id is None

    async def test_an_uncounted_retry_burns_no_attempt_and_keeps_the_last_error(self, store: Store) -> None:
        job_id = await store.retrying(delay=timedelta())
        await store.claim(job_id)
        assert await store.settle(job_id, 2, Retry(timedelta(), None, counted=False))
        job = await store.get(job_id)
        assert (job.attempts, job.deliveries, job.last_error) == (1, 2, TIMED_OUT)

    @pytest.mark.parametrize(
        ("reason", "attempts"),
        [
            (QuarantineReason.RETRIES_EXHAUSTED, 1),
            (QuarantineReason.NON_RETRYABLE, 1),
            (QuarantineReason.POISON, 0),
        ],
    )
    async def test_quarantine_says_why_and_since_when(
        self, store: Store, reason: QuarantineReason, attempts: int
    ) -> None:
        job_id = await store.running()
        error = JobError("BAD_ADDRESS", "no such mailbox", retryable=False)
        assert await store.settle(job_id, 1, Isolate(reason, error))
        job = await store.get(job_id)
        assert job.state is JobState.QUARANTINED
        assert job.quarantine is not None
        assert (job.quarantine.reason, job.quarantine.breaker) == (reason, "")
        assert (job.last_error, job.attempts, job.finish_time) == (error, attempts, None)
        assert job.settled

    async def test_a_release_changes_nothing_but_who_has_it(self, store: Store) -> None:
        job_id = await store.submit()
        due = (await store.get(job_id)).due_time
        await store.claim(job_id)
        assert await store.settle(job_id, 1, Release(), session=OTHER_SESSION)
        job = await store.get(job_id)
        assert (job.state, job.attempts, job.deliveries) == (JobState.QUEUED, 0, 1)
        assert (job.due_time, job.last_error) == (due, None)
        assert (await store.row(job_id)).session_id == OTHER_SESSION

    async def test_a_cancellation_is_recorded(self, store: Store) -> None:
        job_id = await store.running()
        assert await store.settle(job_id, 1, Cancel())
        job = await store.get(job_id)
        assert (job.state, job.attempts) == (JobState.CANCELLED, 0)
        assert job.finish_time is not None

    async def test_to_forget_writes_nothing(self, store: Store) -> None:
        job_id = await store.running()
        before = await store.row(job_id)
        assert not await store.settle(job_id, 1, Forget())
        assert await store.row(job_id) == before

    @pytest.mark.parametrize("decision", [SUCCESS, *FAILURES], ids=lambda d: type(d).__name__)
    async def test_a_repeated_settle_is_answered_alike_and_writes_nothing(
        self, store: Store, decision: Decision
    ) -> None:
        job_id = await store.running()
        assert await store.settle(job_id, 1, decision)
        before = await store.row(job_id)
        assert await store.settle(job_id, 1, decision)
        assert await store.settle(job_id, 1, Complete(b"other"))
        assert await store.row(job_id) == before

    async def test_two_outcomes_of_one_run_in_a_batch_are_one(self, store: Store) -> None:
        job_id = await store.running()
        batch = [
            Settlement(Held(job_id, 1), decision, (), SESSION)
            for decision in (SUCCESS, Release(), FAILURES[0])
        ]
        assert await store.work.settle(batch) == [True, True, True]
        job = await store.get(job_id)
        assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)

    @pytest.mark.parametrize("decision", [SUCCESS, *FAILURES], ids=lambda d: type(d).__name__)
    async def test_a_late_outcome_changes_nothing(self, store: Store, decision: Decision) -> None:
        rescued, taken = await store.running(), await store.running()
        for job_id in (rescued, taken):
            await store.expire_lease(job_id)
        await store.claim(taken)
        leases = await store.recovery.expired(10)
        back = await store.recovery.rescue(OTHER_SESSION, leases)
        assert [token.job_id for token in back.tokens] == [rescued]
        for job_id in (rescued, taken):
            before = await store.row(job_id)
            assert not await store.settle(job_id, 1, decision)
            assert await store.row(job_id) == before

    async def test_no_outcome_for_a_job_that_does_not_exist(self, store: Store) -> None:
        assert not await store.settle(new_id(), 1, SUCCESS)
        assert await store.work.settle([]) == []

    async def test_a_success_wins_over_a_cancellation(self, store: Store) -> None:
        job_id = await store.running()
        await store.steering.cancel(job_id)
        assert await store.settle(job_id, 1, SUCCESS)
        assert (await store.get(job_id)).state is JobState.SUCCEEDED

    @pytest.mark.parametrize("decision", FAILURES, ids=lambda d: type(d).__name__)
    async def test_a_cancellation_wins_over_everything_else(self, store: Store, decision: Decision) -> None:
        job_id = await store.running()
        await store.steering.cancel(job_id)
        assert await store.settle(job_id, 1, decision)
        job = await store.get(job_id)
        assert (job.state, job.quarantine) == (JobState.CANCELLED, None)

    async def test_an_outcome_that_cannot_be_stored_isolates_its_job_alone(self, store: Store) -> None:
        ids = [await store.running() for _ in range(4)]
        batch = [Settlement(Held(i, 1), SUCCESS, (), SESSION) for i in ids]
        far = Retry(
            timedelta(days=999_999_999), TIMED_OUT
        )  # more milliseconds than the column holds, with `now`
        wrong = JobError("API_TIMEOUT", "no answer", retryable=True)
        endless = Attempt(2**70, "w1", AT, AT, wrong)  # and this one cannot be packed
        batch[2] = Settlement(Held(ids[2], 1), far, (endless,), SESSION)
        assert await store.work.settle(batch) == [True] * 4
        assert [(await store.get(i)).state for i in ids] == [
            JobState.SUCCEEDED,
            JobState.SUCCEEDED,
            JobState.QUARANTINED,
            JobState.SUCCEEDED,
        ]
        isolated = await store.get(ids[2])
        assert isolated.last_error is not None
        assert isolated.last_error.code == "UNSTORABLE_OUTCOME"

    async def test_the_history_is_bounded_and_keeps_the_newest(self, store: Store) -> None:
        job_id = await store.running()
        entries = tuple(attempt(n) for n in range(1, HISTORY_LIMIT + 6))
        assert await store.settle(job_id, 1, Retry(timedelta(), TIMED_OUT), history=entries)
        job = await store.claim(job_id)
        assert [a.delivery for a in job.history] == list(range(6, HISTORY_LIMIT + 6))

    async def test_a_batch_may_mix_everything(self, store: Store) -> None:
        ids = [await store.running() for _ in range(6)]
        decisions: list[Decision] = [SUCCESS, *FAILURES, Forget()]
        batch = [Settlement(Held(i, 1), d, (), SESSION) for i, d in zip(ids, decisions, strict=True)]
        batch.insert(3, Settlement(Held(ids[0], 7), SUCCESS, (), SESSION))
        answers = await store.work.settle(batch[::-1])
        assert answers[::-1] == [True, True, True, False, True, True, False]
        assert [(await store.get(i)).state.value for i in ids] == [
            "SUCCEEDED",
            "RETRYING",
            "QUARANTINED",
            "QUEUED",
            "CANCELLED",
            "RUNNING",
        ]


class TestSqliteOutcomes(OnSqlite, SettleContract):
    pass


class TestSlowSqliteOutcomes(OnSlowSqlite, SettleContract):
    pass


class TestPostgresOutcomes(OnPostgres, SettleContract):
    async def test_an_error_code_too_long_for_its_column_isolates_its_job(self, store: Store) -> None:
        job_id = await store.running()
        assert await store.settle(job_id, 1, Retry(timedelta(), JobError("X" * 100, "")))
        assert (await store.get(job_id)).quarantine is not None
