"""The `WorkStore` port, first half: claim, renew, progress. At most one claim of a job is live."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from jobkit.domain.job import NO_TRACE, ClaimedJob, JobState
from jobkit.domain.retry import Postpone, Release
from jobkit.ports import Held, Lease, Miss
from tests.contract.store_contract import (
    LEASE,
    SESSION,
    OnPostgres,
    OnSlowSqlite,
    OnSqlite,
    Store,
    StoreContract,
    at_millis,
    new_id,
)

SECOND = timedelta(seconds=1)


async def miss(store: Store, job_id: UUID) -> timedelta | None:
    found = (await store.work.claim([job_id], claim_id=new_id(), worker_id="w2", lease=LEASE))[job_id]
    assert isinstance(found, Miss), found
    return found.retry_in


class ClaimContract(StoreContract):
    async def test_a_waiting_job_is_claimed_with_all_that_a_worker_needs(self, store: Store) -> None:
        job_id = await store.submit(labels={"a": "b"})
        before = await store.database.now()
        job = await store.claim(job_id, worker="w1")
        after = await store.database.now()
        assert (job.job_id, job.job_type, job.delivery) == (job_id, "email", 1)
        assert (job.attempts, job.attempts_base, job.losses) == (0, 0, 0)
        assert (job.history, job.trace, job.labels) == ((), NO_TRACE, {"a": "b"})
        assert at_millis(before) <= job.start_time <= at_millis(after)
        row = await store.row(job_id)
        assert before + 15_000 <= row.lease_until <= after + 15_000
        read = await store.get(job_id)
        assert read.state is JobState.RUNNING
        assert [(a.delivery, a.worker_id, a.finish_time) for a in read.history] == [(1, "w1", None)]

    async def test_one_call_claims_many_and_answers_for_each(self, store: Store) -> None:
        waiting = [await store.submit(session=None) for _ in range(3)]
        finished, unknown = await store.succeeded(), new_id()
        found = await store.work.claim(
            [*waiting, finished, unknown, waiting[0]], claim_id=new_id(), worker_id="w", lease=LEASE
        )
        assert {i for i, got in found.items() if isinstance(got, ClaimedJob)} == set(waiting)
        assert found[finished] == found[unknown] == Miss(None)

    async def test_a_claim_repeated_after_a_lost_reply_wins_again_and_counts_once(self, store: Store) -> None:
        job_id, claim_id = await store.submit(), new_id()
        for _ in range(3):
            found = await store.work.claim([job_id], claim_id=claim_id, worker_id="w", lease=LEASE)
            job = found[job_id]
            assert isinstance(job, ClaimedJob)
            assert (job.delivery, job.losses) == (1, 0)
        # Even when its lease ran out in between: nobody else took it.
        await store.expire_lease(job_id)
        found = await store.work.claim([job_id], claim_id=claim_id, worker_id="w", lease=LEASE)
        job = found[job_id]
        assert isinstance(job, ClaimedJob)
        assert (job.delivery, job.losses) == (1, 0)

    async def test_a_live_lease_is_respected_and_outlasted(self, store: Store) -> None:
        job_id = await store.running()
        retry_in = await miss(store, job_id)
        assert retry_in is not None
        assert LEASE - SECOND < retry_in <= LEASE + SECOND
        assert (await store.row(job_id)).deliveries == 1

    async def test_an_expired_lease_is_taken_over_and_counts_as_a_loss(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        job = await store.claim(job_id, worker="w2")
        assert (job.delivery, job.losses, job.attempts) == (2, 1, 0)
        await store.expire_lease(job_id)
        assert (await store.claim(job_id)).losses == 2

    async def test_only_who_saw_the_lease_run_out_takes_it_over(self, store: Store) -> None:
        """After an outage every lease looks expired: a claim alone leaves it to its worker."""
        job_id = await store.running()
        await store.expire_lease(job_id)
        row = await store.row(job_id)
        claimed = await store.work.claim([job_id], claim_id=new_id(), worker_id="w2", lease=LEASE)
        seen = Lease(Held(job_id, 1), row.lease_until)
        assert claimed[job_id] == Miss(SECOND / 2, seen)
        assert await store.row(job_id) == row
        assert await store.work.renew([Held(job_id, 1)], lease=LEASE) == ({job_id}, set())
        late = await store.work.take_over(seen, claim_id=new_id(), worker_id="w2", lease=LEASE)
        assert isinstance(late, Miss)
        assert late.expired is None

    async def test_taking_over_may_be_repeated_after_a_lost_reply(self, store: Store) -> None:
        job_id, claim_id = await store.running(), new_id()
        await store.expire_lease(job_id)
        (seen,) = await store.recovery.expired(10)
        for _ in range(3):
            job = await store.work.take_over(seen, claim_id=claim_id, worker_id="w2", lease=LEASE)
            assert isinstance(job, ClaimedJob)
            assert (job.delivery, job.losses) == (2, 1)
        other = await store.work.take_over(seen, claim_id=new_id(), worker_id="w3", lease=LEASE)
        assert isinstance(other, Miss)

    async def test_losses_count_in_a_row_only(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        assert (await store.claim(job_id)).losses == 1
        assert await store.settle(job_id, 2, Release())
        assert (await store.claim(job_id)).losses == 0

    async def test_ids_are_plain_uuids(self, store: Store) -> None:
        """Not a driver's subclass: what is told in JSON could not be encoded."""
        job_id = await store.running()
        await store.expire_lease(job_id)
        job = await store.claim(job_id)
        read = await store.get(job_id)
        assert {type(job.job_id), type(read.job_id)} == {UUID}

    async def test_only_losses_of_claims_that_ran_alone_count_as_such(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        job = await store.claim(job_id)
        assert (job.losses, job.losses_alone) == (1, 0)
        assert await store.work.mark_alone(Held(job_id, job.delivery))
        await store.expire_lease(job_id)
        job = await store.claim(job_id)
        assert (job.losses, job.losses_alone) == (2, 1)
        await store.expire_lease(job_id)
        job = await store.claim(job_id)
        assert (job.losses, job.losses_alone) == (3, 1)

    async def test_a_rescue_and_a_restart_count_losses_alike(self, store: Store) -> None:
        job_id = await store.running()
        assert await store.work.mark_alone(Held(job_id, 1))
        await store.expire_lease(job_id)
        await store.recovery.rescue(SESSION, await store.recovery.expired(10))
        job = await store.claim(job_id)
        assert (job.losses, job.losses_alone) == (1, 1)
        assert await store.work.mark_alone(Held(job_id, 2))
        assert [len(page) async for page in store.recovery.waiting_pages(10)] == [1]
        job = await store.claim(job_id)
        assert (job.losses, job.losses_alone) == (2, 2)

    async def test_a_lost_claim_cannot_be_marked_alone(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        job = await store.claim(job_id)
        assert not await store.work.mark_alone(Held(job_id, job.delivery - 1))
        assert not (await store.row(job_id)).alone

    async def test_a_postponed_run_burns_nothing_and_forgets_no_loss(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        job = await store.claim(job_id)
        assert await store.settle(job_id, job.delivery, Postpone(timedelta(0)))
        job = await store.claim(job_id)
        assert (job.losses, job.attempts, job.delivery) == (1, 0, 3)

    async def test_a_retry_that_is_not_due_is_a_miss_that_says_when(self, store: Store) -> None:
        job_id = await store.retrying(delay=timedelta(seconds=30))
        retry_in = await miss(store, job_id)
        assert retry_in is not None
        assert timedelta(seconds=28) < retry_in <= timedelta(seconds=30)
        assert (await store.row(job_id)).state == "RETRYING"

    async def test_a_token_may_come_a_little_before_its_time(self, store: Store) -> None:
        job_id = await store.retrying(delay=timedelta(milliseconds=800))
        assert (await store.claim(job_id)).attempts == 1

    async def test_finished_and_quarantined_jobs_have_nothing_to_run(self, store: Store) -> None:
        for job_id in (
            await store.succeeded(),
            await store.cancelled(),
            await store.discarded(),
            await store.isolated(),
            new_id(),
        ):
            assert await miss(store, job_id) is None

    async def test_a_cancelled_job_whose_worker_died_is_not_run_again(self, store: Store) -> None:
        job_id = await store.running()
        await store.steering.cancel(job_id)
        await store.expire_lease(job_id)
        assert await miss(store, job_id) is not None
        assert (await store.row(job_id)).deliveries == 1

    async def test_of_many_concurrent_claims_one_wins(self, store: Store) -> None:
        ids = [await store.submit() for _ in range(10)]
        found = await asyncio.gather(
            *(
                store.work.claim(
                    ids if n % 2 else ids[::-1], claim_id=new_id(), worker_id=f"w{n}", lease=LEASE
                )
                for n in range(6)
            )
        )
        for job_id in ids:
            assert sum(isinstance(answer[job_id], ClaimedJob) for answer in found) == 1
            assert (await store.row(job_id)).deliveries == 1

    async def test_each_hold_that_a_job_waited_through_is_counted_once(self, store: Store) -> None:
        job_id = await store.submit()
        for _ in range(2):
            await store.hold()
            await store.lift()
        assert (await store.get(job_id)).holds == 2
        await store.claim(job_id)
        assert (await store.get(job_id)).holds == 2
        # Holds that come while it runs do not hold it.
        await store.hold()
        await store.lift()
        assert await store.settle(job_id, 1, Release())
        assert (await store.get(job_id)).holds == 2
        await store.hold()
        assert (await store.get(job_id)).holds == 3
        # A probe claims it within the hold, gives it back, and the same hold goes on.
        await store.claim(job_id)
        assert await store.settle(job_id, 2, Release())
        assert (await store.get(job_id)).holds == 3


class RenewContract(StoreContract):
    async def test_a_renewal_extends_what_is_still_ours(self, store: Store) -> None:
        ours, stolen, done = [await store.running() for _ in range(3)]
        await store.expire_lease(stolen)
        await store.claim(stolen, worker="w2")
        await store.settle(done, 1, Release())
        until = (await store.row(stolen)).lease_until
        held = [Held(ours, 1), Held(stolen, 1), Held(done, 1), Held(new_id(), 1)]
        now = await store.database.now()
        assert await store.work.renew(held, lease=timedelta(seconds=60)) == ({ours}, set())
        assert (await store.row(ours)).lease_until >= now + 60_000
        assert (await store.row(stolen)).lease_until == until
        assert (await store.row(done)).lease_until is None

    async def test_a_renewal_brings_cancel_requests(self, store: Store) -> None:
        first, second = await store.running(), await store.running()
        await store.steering.cancel(second)
        held = [Held(first, 1), Held(second, 1)]
        assert await store.work.renew(held, lease=LEASE) == ({first, second}, {second})

    async def test_an_expired_lease_that_nobody_took_can_be_renewed(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        assert await store.work.renew([Held(job_id, 1)], lease=LEASE) == ({job_id}, set())
        assert await miss(store, job_id) is not None

    async def test_nothing_to_renew(self, store: Store) -> None:
        assert await store.work.renew([], lease=LEASE) == (set(), set())


class ProgressContract(StoreContract):
    async def test_progress_is_fenced(self, store: Store) -> None:
        ours, stolen, done = await store.running(), await store.running(), await store.succeeded()
        await store.expire_lease(stolen)
        await store.claim(stolen)
        await store.work.progress([(Held(ours, 1), 3, 10), (Held(stolen, 1), 4, 10), (Held(done, 1), 5, 10)])
        assert (await store.get(ours)).progress == (3, 10)
        assert (await store.get(stolen)).progress is None
        assert (await store.get(done)).progress is None

    async def test_numbers_that_cannot_be_stored_hurt_nobody_else(self, store: Store) -> None:
        ours, odd = await store.running(), await store.running()
        await store.work.progress([(Held(odd, 1), 2**80, 2**80), (Held(ours, 1), 1, 2)])
        assert (await store.get(ours)).progress == (1, 2)
        assert (await store.get(odd)).progress is None

    async def test_no_progress_at_all(self, store: Store) -> None:
        await store.work.progress([])


class TestSqliteClaims(OnSqlite, ClaimContract, RenewContract, ProgressContract):
    pass


class TestSlowSqliteClaims(OnSlowSqlite, ClaimContract, RenewContract, ProgressContract):
    pass


class TestPostgresClaims(OnPostgres, ClaimContract, RenewContract, ProgressContract):
    pass
