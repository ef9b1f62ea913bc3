"""The `Intake` port: what is accepted is stored, once, and a bad item fails alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from jobkit.domain.errors import AlreadyExists, InvalidJob
from jobkit.domain.job import JobState, TraceContext
from jobkit.ports import Accepted
from tests.contract.store_contract import (
    SESSION,
    OnPostgres,
    OnSlowSqlite,
    OnSqlite,
    Store,
    StoreContract,
    at_millis,
    new_id,
    new_job,
)


class IntakeContract(StoreContract):
    async def test_an_accepted_job_reads_as_it_was_submitted(self, store: Store) -> None:
        job = new_job(
            payload='{"name": "Zoë 🐙", "nul": "\\u0000", "half": "\\ud800"}'.encode(),
            request_id="r-1",
            content_hash=b"h",
            max_attempts=7,
            attempt_timeout=timedelta(milliseconds=1500),
            labels={"tenant": "Ünïcode", "empty": ""},
            trace=TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "k=v", "user=1"),
        )
        now = await store.database.now()
        assert await store.insert([job], now=now) == [Accepted(job.job_id, existed=False)]
        read = await store.get(job.job_id)
        assert read.state is JobState.QUEUED
        assert read.payload == job.payload
        assert (read.request_id, read.max_attempts, read.labels) == ("r-1", 7, job.labels)
        assert read.trace == job.trace
        assert read.create_time == read.due_time == read.update_time == at_millis(now)
        assert (read.attempts, read.deliveries, read.holds, read.history) == (0, 0, 0, ())
        claimed = await store.claim(job.job_id)
        assert claimed.payload == job.payload
        assert (claimed.attempt_timeout, claimed.max_attempts) == (job.attempt_timeout, 7)
        assert (claimed.labels, claimed.trace) == (job.labels, job.trace)

    async def test_a_job_with_a_publisher_is_queued_and_one_without_is_pending(self, store: Store) -> None:
        queued = await store.submit(session=SESSION)
        pending = await store.submit(session=None)
        assert (await store.row(queued)).state == "QUEUED"
        assert (await store.row(queued)).session_id == SESSION
        assert (await store.row(pending)).state == "PENDING"
        assert (await store.row(pending)).session_id is None

    async def test_a_clock_that_is_ahead_delays_no_job(self, store: Store) -> None:
        """Its token is on its way now: coming too early it would be dropped."""
        job = new_job()
        now = await store.database.now()
        await store.insert([job], now=now + 300_000)
        claimed = await store.claim(job.job_id)
        assert abs(claimed.due_time - at_millis(now)) < timedelta(seconds=5)

    async def test_an_empty_batch_is_no_work(self, store: Store) -> None:
        assert await store.intake.insert([], session=None, now=0, marks={}) == []

    async def test_the_same_request_with_the_same_content_gets_the_first_answer(self, store: Store) -> None:
        first = await store.submit(request_id="r", content_hash=b"same")
        again = new_job(request_id="r", content_hash=b"same")
        assert await store.insert([again]) == [Accepted(first, existed=True)]
        assert await store.reader.get([again.job_id]) == {}

    async def test_the_same_request_with_other_content_is_refused(self, store: Store) -> None:
        first = await store.submit(request_id="r", content_hash=b"one")
        other = new_job(request_id="r", content_hash=b"two")
        bystander = new_job()
        refused, accepted = await store.insert([other, bystander])
        assert isinstance(refused, AlreadyExists)
        assert refused.reason == "REQUEST_ID_REUSED"
        assert refused.metadata == {"requestId": "r", "jobId": str(first)}
        assert accepted == Accepted(bystander.job_id, existed=False)
        assert set(await store.reader.get([other.job_id, bystander.job_id])) == {bystander.job_id}

    async def test_one_request_twice_in_a_batch_is_one_job(self, store: Store) -> None:
        batch = [
            new_job(request_id="r", content_hash=b"same"),
            new_job(request_id="r", content_hash=b"same"),
            new_job(request_id="r", content_hash=b"other"),
        ]
        first, second, third = await store.insert(batch)
        assert first == Accepted(batch[0].job_id, existed=False)
        assert second == Accepted(batch[0].job_id, existed=True)
        assert isinstance(third, AlreadyExists)
        assert len(await store.reader.get([job.job_id for job in batch])) == 1

    async def test_concurrent_batches_agree_on_who_was_first(self, store: Store) -> None:
        await store.types.ensure(["email"], 1000)
        keys = [f"r{n}" for n in range(20)]
        batches = [
            [new_job(request_id=key, content_hash=b"same") for key in (keys if n % 2 else reversed(keys))]
            for n in range(6)
        ]
        answers = await asyncio.gather(*(store.insert(batch) for batch in batches))
        accepted = [a for batch in answers for a in batch if isinstance(a, Accepted)]
        assert len(accepted) == 120
        assert len({a.job_id for a in accepted}) == 20
        assert sum(not a.existed for a in accepted) == 20
        assert len(await store.reader.get([a.job_id for a in accepted])) == 20

    async def test_a_bad_item_fails_alone(self, store: Store) -> None:
        taken = await store.submit()
        batch = [new_job(labels={"n": str(n)}) for n in range(7)]
        batch[3] = new_job(job_id=taken, request_id="never", content_hash=b"h", labels={"n": "3"})
        answers = await store.insert(batch)
        assert isinstance(answers[3], InvalidJob)
        good = [job.job_id for n, job in enumerate(batch) if n != 3]
        assert [a for n, a in enumerate(answers) if n != 3] == [Accepted(i, existed=False) for i in good]
        assert set(await store.reader.get(good)) == set(good)
        # Nothing of the bad one stays behind: its request id is free.
        assert await store.submit(request_id="never", content_hash=b"h")

    async def test_what_cannot_be_stored_fails_alone(self, store: Store) -> None:
        batch = [new_job(), new_job(max_attempts=2**70), new_job(labels={"k": "half \ud800"})]
        first, large, half = await store.insert(batch)
        assert first == Accepted(batch[0].job_id, existed=False)
        assert isinstance(large, InvalidJob)
        assert isinstance(half, InvalidJob)

    async def test_a_job_queued_during_a_hold_counts_it_and_one_before_does_not_count_it_twice(
        self, store: Store
    ) -> None:
        before = await store.submit()
        await store.hold()
        during = await store.submit()
        await store.lift()
        after = await store.submit()
        assert [(await store.get(i)).holds for i in (before, during, after)] == [1, 1, 0]
        for job_id in (before, during, after):
            await store.claim(job_id)
        assert [(await store.get(i)).holds for i in (before, during, after)] == [1, 1, 0]


class TestSqliteIntake(OnSqlite, IntakeContract):
    pass


class TestSlowSqliteIntake(OnSlowSqlite, IntakeContract):
    pass


class TestPostgresIntake(OnPostgres, IntakeContract):
    async def test_a_string_with_nul_fails_alone(self, store: Store) -> None:
        batch = [new_job(), new_job(labels={"k": "\x00"}), new_job(job_type="long", labels={"k": "x" * 300})]
        answers = await store.insert(batch)
        assert [type(a) for a in answers] == [Accepted, InvalidJob, InvalidJob]

    async def test_batches_in_any_order_never_deadlock_for_good(self, store: Store) -> None:
        await store.types.ensure(["email"], 1000)
        ids = [new_id() for _ in range(50)]
        batches = [
            [new_job(job_id=i) for i in (ids if n % 2 else ids[::-1])]  # the same primary keys, crosswise
            for n in range(2)
        ]
        answers = await asyncio.gather(*(store.insert(batch) for batch in batches))
        assert sum(isinstance(a, Accepted) for batch in answers for a in batch) == 50
