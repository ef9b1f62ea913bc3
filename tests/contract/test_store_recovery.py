"""The `Recovery` port: what nobody answers for is found, once, whoever looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from jobkit.adapters.sql.tables import publishers, undecodable
from jobkit.domain.job import JobState, Token, TraceContext
from jobkit.domain.retry import Retry
from jobkit.ports import Held, Lease
from tests.contract.store_contract import (
    LEASE,
    OTHER_SESSION,
    SESSION,
    TIMED_OUT,
    OnPostgres,
    OnSqlite,
    Store,
    StoreContract,
    new_id,
    new_job,
)

HERE = UUID(int=0xC)
SILENT = timedelta(seconds=5)


def ids_of(tokens: Sequence[Token]) -> list[UUID]:
    return [token.job_id for token in tokens]


class OverdueContract(StoreContract):
    async def test_what_is_nobodys_and_due_is_taken_oldest_first(self, store: Store) -> None:
        now = await store.database.now()
        trace = TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "k=v", "")
        jobs = [new_job(trace=trace) for _ in range(3)]
        for n, job in enumerate(jobs):
            await store.insert([job], session=None, now=now - n)
        answered_for = await store.submit()
        later = await store.running()
        await store.settle(later, 1, Retry(timedelta(minutes=5), TIMED_OUT), session=None)
        tokens = await store.recovery.take_overdue(HERE, 10)
        assert tokens == [Token(job.job_id, "email", 1, trace) for job in jobs[::-1]]
        for job in jobs:
            row = await store.row(job.job_id)
            assert (row.state, row.session_id) == ("QUEUED", HERE)
        assert await store.recovery.take_overdue(HERE, 10) == []
        await store.set(later, due_at=now)
        assert await store.recovery.take_overdue(HERE, 10) == [Token(later, "email", 2)]
        assert (await store.row(answered_for)).session_id == SESSION

    async def test_a_pass_is_bounded(self, store: Store) -> None:
        for _ in range(5):
            await store.submit(session=None)
        assert [len(await store.recovery.take_overdue(HERE, 2)) for _ in range(4)] == [2, 2, 1, 0]

    async def test_two_control_planes_never_take_the_same(self, store: Store) -> None:
        await store.insert([new_job() for _ in range(200)], session=None)
        taken: list[UUID] = []
        for _ in range(4):
            parts = await asyncio.gather(*(store.recovery.take_overdue(new_id(), 20) for _ in range(4)))
            taken += [job_id for part in parts for job_id in ids_of(part)]
        assert len(taken) == len(set(taken))
        taken += ids_of(await store.recovery.take_overdue(HERE, 500))
        assert len(taken) == len(set(taken)) == 200


class OrphanContract(StoreContract):
    async def _silence(self, store: Store, session: UUID) -> None:
        await store.execute(
            sa.update(publishers)
            .where(publishers.c.session_id == session)
            .values(beat_at=publishers.c.beat_at - 6_000)
        )

    async def _publishers(self, store: Store) -> set[UUID]:
        async def work(connection: Any) -> set[UUID]:
            return set((await connection.execute(sa.select(publishers.c.session_id))).scalars())

        return await store.database.read(work)

    async def test_a_silent_publishers_unsettled_tokens_are_taken(self, store: Store) -> None:
        settled, first, second = [await store.submit() for _ in range(3)]
        others = await store.submit(session=OTHER_SESSION)
        claimed = await store.running()
        await store.sessions.beat(SESSION, "jobapi", first)
        await store.sessions.beat(OTHER_SESSION, "jobapi", None)
        assert await store.recovery.take_orphans(HERE, SILENT, 10) == []
        await self._silence(store, SESSION)
        assert ids_of(await store.recovery.take_orphans(HERE, SILENT, 10)) == [first, second]
        assert [(await store.row(i)).session_id for i in (settled, first, second, others, claimed)] == [
            SESSION,
            HERE,
            HERE,
            OTHER_SESSION,
            SESSION,
        ]
        assert await self._publishers(store) == {OTHER_SESSION}
        assert await store.recovery.take_orphans(HERE, SILENT, 10) == []

    async def test_what_was_accepted_after_the_last_beat_is_taken_too(self, store: Store) -> None:
        """`None` says that all was settled, then."""
        now = await store.database.now()
        before, after = new_job(), new_job()
        await store.insert([before], now=now - 60_000)
        await store.sessions.beat(SESSION, "jobapi", None)
        await store.insert([after])
        await self._silence(store, SESSION)
        assert ids_of(await store.recovery.take_orphans(HERE, SILENT, 10)) == [after.job_id]

    async def test_a_retry_of_a_dead_publisher_is_taken_when_it_is_due(self, store: Store) -> None:
        job_id = await store.retrying(delay=timedelta(seconds=30))
        await store.sessions.beat(SESSION, "worker", job_id)
        await self._silence(store, SESSION)
        assert await store.recovery.take_orphans(HERE, SILENT, 10) == []
        assert await self._publishers(store) == {SESSION}
        await store.set(job_id, due_at=0)
        assert await store.recovery.take_orphans(HERE, SILENT, 10) == [Token(job_id, "email", 2)]
        assert await self._publishers(store) == set()

    async def test_a_pass_is_bounded_over_all_publishers(self, store: Store) -> None:
        ids = [await store.submit(session=SESSION if n % 2 else OTHER_SESSION) for n in range(6)]
        for session in (SESSION, OTHER_SESSION):
            await store.sessions.beat(session, "jobapi", ids[0])
            await self._silence(store, session)
        taken = [ids_of(await store.recovery.take_orphans(HERE, SILENT, 4)) for _ in range(3)]
        assert [len(part) for part in taken] == [4, 2, 0]
        assert sorted(i for part in taken for i in part) == ids
        assert await self._publishers(store) == set()

    async def test_a_publisher_that_beats_again_is_left_alone(self, store: Store) -> None:
        job_id = await store.submit()
        await store.sessions.beat(SESSION, "jobapi", job_id)
        await self._silence(store, SESSION)
        await store.sessions.beat(SESSION, "jobapi", job_id)
        assert await store.recovery.take_orphans(HERE, SILENT, 10) == []
        assert await self._publishers(store) == {SESSION}

    async def test_two_control_planes_share_a_dead_publishers_rows(self, store: Store) -> None:
        jobs = [new_job() for _ in range(100)]
        await store.insert(jobs)
        await store.sessions.beat(SESSION, "jobapi", jobs[0].job_id)
        await self._silence(store, SESSION)
        taken: list[UUID] = []
        for _ in range(5):
            parts = await asyncio.gather(
                *(store.recovery.take_orphans(new_id(), SILENT, 30) for _ in range(3))
            )
            taken += [i for part in parts for i in ids_of(part)]
        assert sorted(taken) == sorted(job.job_id for job in jobs)
        assert await self._publishers(store) == set()


class LostContract(StoreContract):
    async def test_waiting_rows_overtaken_by_later_ones_are_published_once(self, store: Store) -> None:
        lost, retrying, recent = await store.submit(), await store.retrying(), await store.submit()
        other_type, running = await store.submit("sms"), await store.running()
        now = await store.database.now()
        for job_id in (lost, retrying, other_type, running):
            await store.set(job_id, due_at=now - 100_000)
        assert ids_of(await store.recovery.take_lost(HERE, "email", now - 60_000, 10)) == [lost, retrying]
        assert await store.recovery.take_lost(HERE, "email", now - 60_000, 10) == []
        row = await store.row(lost)
        assert (row.state, row.session_id) == ("QUEUED", HERE)
        assert row.due_at >= now
        assert (await store.row(recent)).session_id == SESSION

    async def test_two_control_planes_never_take_the_same_lost_row(self, store: Store) -> None:
        await store.insert([new_job() for _ in range(100)])
        soon = await store.database.now() + 1
        parts = await asyncio.gather(
            *(store.recovery.take_lost(new_id(), "email", soon, 30) for _ in range(3))
        )
        taken = [i for part in parts for i in ids_of(part)]
        assert len(taken) == len(set(taken))

    async def test_the_oldest_waiting_row_of_each_type(self, store: Store) -> None:
        assert await store.recovery.oldest_waiting() == {}
        now = await store.database.now()
        for n, job_type in enumerate(["email", "email", "sms"]):
            await store.set(await store.submit(job_type), due_at=now - n)
        await store.running("running")
        await store.retrying("later")
        await store.set(await store.retrying("due"), due_at=5)
        assert await store.recovery.oldest_waiting() == {"email": now - 1, "sms": now - 2, "due": 5}


class RescueContract(StoreContract):
    async def test_expired_leases_are_found_longest_first(self, store: Store) -> None:
        ids = [await store.running() for _ in range(4)]
        assert await store.recovery.expired(10) == []
        for n, job_id in enumerate(ids[:3]):
            await store.set(job_id, lease_until=100 - n)
        expected = [Lease(Held(ids[n], 1), 100 - n) for n in (2, 1, 0)]
        assert await store.recovery.expired(10) == expected
        assert await store.recovery.expired(2) == expected[:2]

    async def test_a_lost_job_goes_back_with_one_loss_more_and_no_attempt(self, store: Store) -> None:
        job_id = await store.running()
        await store.expire_lease(job_id)
        leases = await store.recovery.expired(10)
        assert await store.recovery.rescue(HERE, leases) == ([Token(job_id, "email", 1)], {})
        row = await store.row(job_id)
        assert (row.state, row.session_id, row.losses, row.attempts) == ("QUEUED", HERE, 1, 0)
        assert await store.recovery.rescue(HERE, leases) == ([], {})
        assert (await store.claim(job_id)).losses == 1

    async def test_a_renewed_settled_or_retaken_claim_is_not_rescued(self, store: Store) -> None:
        renewed, settled, retaken = [await store.running() for _ in range(3)]
        for job_id in (renewed, settled, retaken):
            await store.expire_lease(job_id)
        leases = await store.recovery.expired(10)
        assert len(leases) == 3
        await store.work.renew([Held(renewed, 1)], lease=LEASE)
        await store.settle(settled, 1, Retry(timedelta(), TIMED_OUT))
        await store.claim(retaken)
        before = [await store.row(i) for i in (renewed, settled, retaken)]
        assert await store.recovery.rescue(HERE, leases) == ([], {})
        assert [await store.row(i) for i in (renewed, settled, retaken)] == before
        assert await store.recovery.rescue(HERE, []) == ([], {})

    async def test_a_cancelled_job_whose_worker_died_ends(self, store: Store) -> None:
        job_id = await store.running()
        assert await store.work.mark_alone(Held(job_id, 1))
        await store.steering.cancel(job_id)
        await store.expire_lease(job_id)
        leases = await store.recovery.expired(10)
        assert await store.recovery.rescue(HERE, leases) == ([], {"email": 1})
        assert await store.recovery.rescue(HERE, leases) == ([], {})
        assert not (await store.row(job_id)).alone
        job = await store.get(job_id)
        assert job.state is JobState.CANCELLED
        assert job.finish_time is not None

    async def test_two_control_planes_never_rescue_the_same(self, store: Store) -> None:
        ids = [await store.running() for _ in range(20)]
        for job_id in ids:
            await store.expire_lease(job_id)
        leases = await store.recovery.expired(100)
        parts = await asyncio.gather(*(store.recovery.rescue(new_id(), leases) for _ in range(4)))
        taken = [i for part in parts for i in ids_of(part.tokens)]
        assert len(taken) == len(set(taken))
        assert {(await store.row(i)).losses for i in taken} == {1}


class RestartContract(StoreContract):
    async def test_all_that_waits_is_told_in_pages_after_what_ran_is_released(self, store: Store) -> None:
        queued, retrying, running = await store.submit(), await store.retrying(), await store.running()
        pending, stopped = await store.submit(session=None), await store.running()
        await store.steering.cancel(stopped)
        for done in (store.succeeded, store.isolated, store.cancelled, store.discarded):
            await done()
        pages = [page async for page in store.recovery.waiting_pages(2)]
        assert [len(page) for page in pages] == [2, 1]
        told = {token.job_id: (token, wait) for page in pages for token, wait in page}
        assert list(told) == [queued, retrying, running]
        assert told[queued] == (Token(queued, "email", 1), 0)
        assert told[retrying][0] == Token(retrying, "email", 2)
        assert 28_000 < told[retrying][1] <= 30_000
        row = await store.row(running)
        assert (row.state, row.losses, row.lease_until) == ("QUEUED", 1, None)
        # The pending one is for the overdue reconciler; the cancelled one ended with its worker.
        assert ids_of(await store.recovery.take_overdue(HERE, 10)) == [pending]
        assert (await store.get(stopped)).state is JobState.CANCELLED

    async def test_nothing_waits(self, store: Store) -> None:
        await store.succeeded()
        assert [page async for page in store.recovery.waiting_pages(10)] == []


class CountContract(StoreContract):
    async def test_unfinished_rows_are_counted_by_type_and_state(self, store: Store) -> None:
        for job_type in ("email", "sms"):
            await store.submit(job_type)
            await store.submit(job_type, session=None)
            await store.retrying(job_type)
            await store.set(await store.retrying(job_type), due_at=5)
            for make in (store.running, store.isolated, store.succeeded, store.cancelled, store.discarded):
                await make(job_type)
        await store.hold("sms")
        assert await store.recovery.count_waiting() == {
            ("email", "QUEUED"): 1,
            ("email", "PENDING"): 1,
            ("email", "RETRYING"): 2,
            ("email", "RUNNING"): 1,
            ("email", "QUARANTINED"): 1,
            ("sms", "HELD"): 3,
            ("sms", "RETRYING"): 1,
            ("sms", "RUNNING"): 1,
            ("sms", "QUARANTINED"): 1,
        }

    async def test_undecodable_messages_are_kept_as_they_came(self, store: Store) -> None:
        messages = [(b"\x00\xff", {"x-job-id": "?", "é": "ü"}), (b"", {}), (b"x", {"h\ud800": "a\x00"})]
        await store.recovery.file_undecodable(messages)
        await store.recovery.file_undecodable([])

        async def work(connection: Any) -> list[Any]:
            return list((await connection.execute(sa.select(undecodable))).all())

        rows = sorted(await store.database.read(work), key=lambda row: row.message_id)
        readable = [*messages[:2], (b"x", {"h?": "a\ufffd"})]
        assert [(row.body, orjson.loads(row.headers)) for row in rows] == readable


class TestSqliteRecovery(OnSqlite, OverdueContract, OrphanContract, LostContract, RescueContract):
    pass


class TestPostgresRecovery(OnPostgres, OverdueContract, OrphanContract, LostContract, RescueContract):
    pass


class TestSqliteRestart(OnSqlite, RestartContract, CountContract):
    pass


class TestPostgresRestart(OnPostgres, RestartContract, CountContract):
    pass
