"""The `Retention` port: what has had its time goes, with all that hangs on it, and nothing else does."""

from __future__ import annotations

import uuid
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from jobkit.adapters.sql.retention import NEWEST_KEPT, SqlRetention
from jobkit.adapters.sql.rows import lowest_id
from jobkit.adapters.sql.tables import (
    breaker_transitions,
    claim_fronts,
    job_labels,
    job_types,
    request_keys,
    undecodable,
    workers,
)
from jobkit.domain.breaker import BreakerState
from jobkit.domain.job import JobState
from jobkit.domain.retry import Complete
from jobkit.ports import Accepted, Ages, PurgeStep
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_job

DAY = 86_400_000
AGES = Ages(finished_ms=7 * DAY, quarantined_ms=30 * DAY, silent_ms=3_600_000)
START = UUID(int=0)


async def aged(store: Store, days: int, state: JobState = JobState.SUCCEEDED, **changes: Any) -> UUID:
    """A job that was accepted and came into `state` so many days ago."""
    at = await store.database.now() - days * DAY
    job = new_job(job_id=UUID(int=lowest_id(at).int | (uuid.uuid4().int & (1 << 61) - 1)), **changes)
    assert await store.insert([job], now=at) == [Accepted(job.job_id, existed=False)]
    if state is JobState.SUCCEEDED:
        await store.claim(job.job_id)
        await store.settle(job.job_id, 1, Complete(None))
        await store.set(job.job_id, finished_at=at)
    elif state is JobState.QUARANTINED:
        await store.set(
            job.job_id, state=state.value, quarantine_reason="POISON", quarantined_at=at, session_id=None
        )
    return job.job_id


async def count(store: Store, table: sa.Table) -> int:
    async def work(connection: Any) -> int:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())

    return await store.database.read(work)


class RetentionContract(StoreContract):
    async def test_finished_jobs_go_first_and_what_waits_never_does(self, store: Store) -> None:
        retention = SqlRetention(store.database)
        gone = [await aged(store, 8), await aged(store, 31, JobState.QUARANTINED)]
        kept = [
            await aged(store, 6),
            await aged(store, 29, JobState.QUARANTINED),
            await aged(store, 400, JobState.QUEUED),
        ]
        late = await aged(store, 8)
        await store.set(late, finished_at=await store.database.now())
        assert await retention.purge(START, AGES, 100) == PurgeStep(2, None)
        assert set(await store.reader.get([*gone, *kept, late])) == {*kept, late}
        assert await retention.purge(START, AGES, 100) == PurgeStep(0, None)

    async def test_labels_and_keys_go_with_their_job(self, store: Store) -> None:
        await aged(store, 8, request_id="r1", content_hash=b"", labels={"a": "b", "c": "d"})
        kept = await aged(store, 1, request_id="r2", content_hash=b"", labels={"a": "b"})
        await SqlRetention(store.database).purge(START, AGES, 100)
        assert (await count(store, job_labels), await count(store, request_keys)) == (1, 1)
        assert set(await store.reader.get([kept])) == {kept}
        # The key is free again.
        await store.submit(request_id="r1", content_hash=b"other")

    async def test_steps_are_bounded_and_go_on_where_the_last_ended(self, store: Store) -> None:
        retention = SqlRetention(store.database)
        for days in (20, 19, 18, 17, 16):
            await aged(store, days)
            await aged(store, days, JobState.QUEUED)
        removed, after, steps = 0, START, 0
        while True:
            step = await retention.purge(after, AGES, 3)
            removed, steps = removed + step.removed, steps + 1
            if step.after is None:
                break
            assert step.after > after
            after = step.after
        assert (removed, steps) == (5, 4)

    async def test_the_ledger_keeps_what_breakers_are_rebuilt_from(self, store: Store) -> None:
        for n in range(NEWEST_KEPT + 4):
            await store.move("email", BreakerState.CLOSED if n % 2 else BreakerState.OPEN)
        await store.move("sms", BreakerState.OPEN)
        told = await store.ledger.latest()
        assert await SqlRetention(store.database).purge_records(AGES, 100) == 0
        await store.execute(sa.update(breaker_transitions).values(at=5))
        assert await SqlRetention(store.database).purge_records(AGES, 3) == 3
        assert await SqlRetention(store.database).purge_records(AGES, 100) == 1
        assert await count(store, breaker_transitions) == NEWEST_KEPT + 1
        latest = await store.ledger.latest()
        assert {name: record.generation for name, record in latest.items()} == {
            name: record.generation for name, record in told.items()
        }

    async def test_what_workers_and_filed_messages_left_behind_goes(self, store: Store) -> None:
        retention = SqlRetention(store.database)
        await store.presence.beat("w", ["*"], {"email": 1})
        await store.recovery.file_undecodable([(b"x", {})])
        assert await retention.purge_records(AGES, 100) == 0
        await store.execute(sa.update(workers).values(beat_at=5))
        await store.execute(sa.update(claim_fronts).values(seen_at=5))
        await store.execute(sa.update(undecodable).values(filed_at=5))
        assert await retention.purge_records(AGES, 100) == 3

    async def test_a_type_without_jobs_is_idle_and_one_with_jobs_cannot_be_dropped(
        self, store: Store
    ) -> None:
        retention = SqlRetention(store.database)
        await store.types.ensure(["idle", "young", "held"], 10)
        await store.submit("busy")
        await store.hold("held")
        await store.execute(sa.update(job_types).where(job_types.c.job_type != "young").values(created_at=5))
        assert await retention.idle_types(DAY) == ["idle"]
        assert not await retention.drop_type("busy")
        assert await retention.drop_type("idle")
        assert not await retention.drop_type("idle")
        assert set(await store.types.all()) == {"busy", "young", "held"}


class TestSqliteRetention(OnSqlite, RetentionContract):
    pass


class TestPostgresRetention(OnPostgres, RetentionContract):
    pass
