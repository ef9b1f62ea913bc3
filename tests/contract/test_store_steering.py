"""The `Steering` port: cancel, retry, discard, from every state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from uuid import UUID

import pytest

from jobkit.domain.errors import NotFound, Precondition
from jobkit.domain.job import JobState, QuarantineReason, Token
from jobkit.domain.retry import Complete, Isolate, Retry
from tests.contract.store_contract import (
    OTHER_SESSION,
    TIMED_OUT,
    OnPostgres,
    OnSqlite,
    Store,
    StoreContract,
    new_id,
)

CORRECTED = b'{"to": "corrected"}'


async def in_state(store: Store, state: JobState) -> UUID:
    match state:
        case JobState.PENDING:
            return await store.submit(session=None)
        case JobState.QUEUED:
            return await store.submit()
        case JobState.QUARANTINED:
            return await store.isolated()
        case _:
            made: Awaitable[UUID] = getattr(store, state.lower())()
            return await made


async def refusal(action: Awaitable[object]) -> Precondition:
    with pytest.raises(Precondition) as caught:
        await action
    return caught.value


class CancelContract(StoreContract):
    @pytest.mark.parametrize(
        "state", [JobState.PENDING, JobState.QUEUED, JobState.RETRYING, JobState.QUARANTINED], ids=str
    )
    async def test_what_waits_is_cancelled_at_once(self, store: Store, state: JobState) -> None:
        job_id = await in_state(store, state)
        for first in (True, False):
            job, ended = await store.steering.cancel(job_id)
            assert ended is first
            assert (job.state, job.quarantine) == (JobState.CANCELLED, None)
            assert job.finish_time is not None
        assert await store.get(job_id) == job

    async def test_a_held_job_is_cancelled_at_once(self, store: Store) -> None:
        job_id = await store.submit()
        await store.hold()
        assert (await store.steering.cancel(job_id))[0].state is JobState.CANCELLED

    async def test_a_running_job_is_asked_to_stop(self, store: Store) -> None:
        job_id = await store.running()
        for _ in range(2):
            job, ended = await store.steering.cancel(job_id)
            assert (job.state, ended) == (JobState.RUNNING, False)
        assert (await store.row(job_id)).cancel_requested

    @pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.DISCARDED], ids=str)
    async def test_a_finished_job_cannot_be_cancelled(self, store: Store, state: JobState) -> None:
        job_id = await in_state(store, state)
        error = await refusal(store.steering.cancel(job_id))
        assert error.reason == "JOB_NOT_CANCELLABLE"
        assert error.metadata == {"jobId": str(job_id), "state": state.value}

    async def test_an_unknown_job_is_not_found(self, store: Store) -> None:
        for action in (
            store.steering.cancel(new_id()),
            store.steering.discard(new_id()),
            store.steering.retry(new_id(), None, OTHER_SESSION),
        ):
            with pytest.raises(NotFound):
                await action

    async def test_a_claim_and_a_cancellation_at_once_leave_one_truth(self, store: Store) -> None:
        for _ in range(10):
            job_id = await store.submit()
            claimed, (job, _) = await asyncio.gather(
                store.work.claim([job_id], claim_id=new_id(), worker_id="w", lease=timedelta(seconds=15)),
                store.steering.cancel(job_id),
            )
            row = await store.row(job_id)
            if job.state is JobState.CANCELLED:
                assert (row.state, row.deliveries) == ("CANCELLED", 0)
            else:
                assert (row.state, row.cancel_requested) == ("RUNNING", True)
                assert claimed[job_id] is not None


class RetryContract(StoreContract):
    @pytest.mark.parametrize("reason", [r for r in QuarantineReason if not r.by_hold], ids=str)
    async def test_a_quarantined_job_goes_back_to_work(self, store: Store, reason: QuarantineReason) -> None:
        job_id = await store.isolated(reason=reason)
        now = await store.database.now()
        job, token = await store.steering.retry(job_id, None, OTHER_SESSION)
        assert (job.state, job.quarantine) == (JobState.QUEUED, None)
        assert job.due_time.timestamp() * 1000 >= now
        assert token == Token(job_id, "email", job.attempts + 1)
        assert (await store.row(job_id)).session_id == OTHER_SESSION
        claimed = await store.claim(job_id)
        assert claimed.attempts == claimed.attempts_base == job.attempts
        assert claimed.losses == 0

    async def test_attempts_go_on_counting_and_the_limit_starts_anew(self, store: Store) -> None:
        job_id = await store.isolated()
        await store.steering.retry(job_id, None, OTHER_SESSION)
        await store.claim(job_id)
        assert await store.settle(job_id, 2, Retry(timedelta(), TIMED_OUT))
        claimed = await store.claim(job_id)
        assert (claimed.attempts, claimed.attempts_base, claimed.delivery) == (2, 1, 3)

    async def test_the_payload_may_be_corrected(self, store: Store) -> None:
        job_id = await store.isolated()
        job, _ = await store.steering.retry(job_id, CORRECTED, OTHER_SESSION)
        assert job.payload == CORRECTED
        assert (await store.claim(job_id)).payload == CORRECTED

    async def test_a_held_job_keeps_its_place_and_only_takes_the_payload(self, store: Store) -> None:
        job_id = await store.submit()
        await store.hold()
        before = await store.row(job_id)
        job, token = await store.steering.retry(job_id, CORRECTED, OTHER_SESSION)
        assert token is None
        assert (job.state, job.payload) == (JobState.QUARANTINED, CORRECTED)
        after = await store.row(job_id)
        assert (after.state, after.due_at, after.session_id) == (
            before.state,
            before.due_at,
            before.session_id,
        )
        job, token = await store.steering.retry(job_id, None, OTHER_SESSION)
        assert (token, job.payload) == (None, CORRECTED)

    async def test_holds_during_quarantine_are_not_counted(self, store: Store) -> None:
        job_id = await store.isolated()
        await store.hold()
        await store.lift()
        assert (await store.steering.retry(job_id, None, OTHER_SESSION))[0].holds == 0
        await store.claim(job_id)
        assert (await store.get(job_id)).holds == 0

    async def test_a_job_retried_during_a_hold_is_held(self, store: Store) -> None:
        job_id = await store.isolated()
        await store.hold()
        job, token = await store.steering.retry(job_id, None, OTHER_SESSION)
        assert token is not None
        assert (job.state, job.holds) == (JobState.QUARANTINED, 1)
        assert job.quarantine is not None
        assert job.quarantine.reason is QuarantineReason.BREAKER_OPEN

    @pytest.mark.parametrize("state", [s for s in JobState if s is not JobState.QUARANTINED], ids=str)
    async def test_only_quarantined_jobs_can_be_retried_or_discarded(
        self, store: Store, state: JobState
    ) -> None:
        job_id = await in_state(store, state)
        before = await store.row(job_id)
        error = await refusal(store.steering.retry(job_id, CORRECTED, OTHER_SESSION))
        assert error.reason == "JOB_NOT_QUARANTINED"
        assert error.metadata == {"jobId": str(job_id), "state": state.value}
        if state is not JobState.DISCARDED:
            assert (await refusal(store.steering.discard(job_id))).reason == "JOB_NOT_QUARANTINED"
        assert await store.row(job_id) == before


class DiscardContract(StoreContract):
    async def test_a_quarantined_job_is_discarded_for_good(self, store: Store) -> None:
        job_id = await store.isolated()
        for first in (True, False):
            job, ended = await store.steering.discard(job_id)
            assert ended is first
            assert (job.state, job.quarantine, job.last_error) == (JobState.DISCARDED, None, TIMED_OUT)
            assert job.finish_time is not None

    @pytest.mark.parametrize("state", [JobState.PENDING, JobState.QUEUED, JobState.RETRYING], ids=str)
    async def test_a_held_job_can_be_discarded(self, store: Store, state: JobState) -> None:
        job_id = await in_state(store, state)
        await store.set(job_id, due_at=0)
        await store.hold()
        assert (await store.steering.discard(job_id))[0].state is JobState.DISCARDED
        await store.lift()
        assert (await store.get(job_id)).state is JobState.DISCARDED

    async def test_an_outcome_after_a_retry_from_quarantine_is_too_late(self, store: Store) -> None:
        """The settle that isolated it is answered as repeated; another outcome of that run is not written."""
        job_id = await store.isolated()
        await store.steering.retry(job_id, None, OTHER_SESSION)
        before = await store.row(job_id)
        assert await store.settle(job_id, 1, Isolate(QuarantineReason.POISON, TIMED_OUT))
        assert await store.row(job_id) == before
        await store.claim(job_id)
        assert await store.settle(job_id, 2, Complete(None))
        assert not await store.settle(job_id, 1, Complete(None))


class TestSqliteSteering(OnSqlite, CancelContract, RetryContract, DiscardContract):
    pass


class TestPostgresSteering(OnPostgres, CancelContract, RetryContract, DiscardContract):
    pass
