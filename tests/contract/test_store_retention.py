"""The port `Retention`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.faults import SqlFaults
from jobkit.adapters.sql.policies import SqlPolicies
from jobkit.adapters.sql.retention import NEWEST_KEPT, SqlRetention
from jobkit.adapters.sql.tables import (
    breaker_transitions,
    claim_fronts,
    faults,
    incidents,
    job_labels,
    job_types,
    jobs,
    redrives,
    request_keys,
    undecodable,
    workers,
)
from jobkit.domain.breaker import BreakerState
from jobkit.domain.fault import Fault
from jobkit.domain.policy import PolicyOverride
from jobkit.domain.redrive import NewRedrive
from jobkit.ports import Ages, PurgeStep, RecordStep
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_id

DAY = 86_400_000
AGES = Ages(finished_ms=7 * DAY, quarantined_ms=30 * DAY)
START = UUID(int=0)
LOW_BITS = (1 << 80) - 1  # what follows the milliseconds in a UUIDv7


class RetentionContract(StoreContract):
    @pytest.fixture
    def retention(self, store: Store) -> SqlRetention:
        return SqlRetention(store.database)

    async def old(self, store: Store, job_id: UUID, days: float) -> UUID:
        """Age a job by `days`: ids are time, so that it gets another."""
        then = await store.database.now() - round(days * DAY)
        aged = UUID(int=then << 80 | job_id.int & LOW_BITS)
        row = await store.row(job_id)
        times = {"finished_at": row.finished_at and then, "quarantined_at": row.quarantined_at and then}
        await store.execute(sa.update(jobs).where(jobs.c.job_id == job_id).values(job_id=aged, **times))
        for table in (job_labels, request_keys):
            await store.execute(sa.update(table).where(table.c.job_id == job_id).values(job_id=aged))
        return aged

    async def purge(self, retention: SqlRetention, limit: int = 100) -> int:
        removed, after = 0, START
        for _ in range(100):
            step = await retention.purge(after, AGES, limit)
            removed += step.removed
            if step.after is None:
                return removed
            after = step.after
        raise AssertionError("it does not end")

    async def count(self, store: Store, table: sa.Table) -> int:
        async def work(connection: Any) -> int:
            return int((await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())

        return await store.database.read(work)

    async def test_finished_jobs_leave_after_their_time(self, store: Store, retention: SqlRetention) -> None:
        gone = [
            await self.old(store, await store.succeeded(), 8),
            await self.old(store, await store.cancelled(), 8),
            await self.old(store, await store.discarded(), 8),
            await self.old(store, await store.isolated(), 31),
        ]
        kept = [
            await self.old(store, await store.succeeded(), 6),
            await self.old(store, await store.isolated(), 29),
            await self.old(store, await store.submit(), 400),
            await self.old(store, await store.retrying(), 400),
            await self.old(store, await store.running(), 400),
            await store.succeeded(),
        ]
        assert await self.purge(retention) == len(gone)
        assert set(await store.reader.get([*gone, *kept])) == set(kept)
        assert await self.purge(retention) == 0

    async def test_an_old_job_that_finished_late_stays(self, store: Store, retention: SqlRetention) -> None:
        late = await self.old(store, await store.succeeded(), 20)
        await store.set(late, finished_at=await store.database.now() - 6 * DAY)
        assert await self.purge(retention) == 0

    async def test_labels_and_keys_leave_with_their_job(self, store: Store, retention: SqlRetention) -> None:
        kept = await store.submit(labels={"team": "a"}, request_id="kept")
        labels = {"team": "a", "region": "eu"}
        for number in range(3):
            await store.submit("sms", labels=labels, request_id=f"r{number}", content_hash=b"1")
        await store.execute(
            sa.update(jobs).where(jobs.c.job_type == "sms").values(state="SUCCEEDED", finished_at=1)
        )

        async def ids(connection: Any) -> list[UUID]:
            mine = sa.select(jobs.c.job_id).where(jobs.c.job_type == "sms")
            return list((await connection.execute(mine)).scalars())

        for job_id in await store.database.read(ids):
            await self.old(store, job_id, 8)
        assert await self.purge(retention) == 3
        assert await self.count(store, job_labels) == await self.count(store, request_keys) == 1
        assert set(await store.reader.get([kept])) == {kept}
        # The key is free again.
        again = await store.submit("sms", request_id="r1", content_hash=b"2")
        assert (await store.get(again)).request_id == "r1"

    async def test_each_step_is_bounded_and_tells_where_the_next_goes_on(
        self, store: Store, retention: SqlRetention
    ) -> None:
        for number in range(7):
            job = await (store.submit() if number % 2 else store.succeeded())
            await self.old(store, job, 20 - number)
        first = await retention.purge(START, AGES, 3)
        assert first.removed == 2
        assert first.after is not None
        second = await retention.purge(first.after, AGES, 3)
        assert second.removed == 1
        assert second.after is not None
        assert await retention.purge(second.after, AGES, 3) == PurgeStep(1, None)
        assert await self.count(store, jobs) == 3

    async def test_the_ledger_keeps_what_a_breaker_is_rebuilt_from(
        self, store: Store, retention: SqlRetention
    ) -> None:
        for number in range(NEWEST_KEPT + 4):
            await store.move("email", (BreakerState.OPEN, BreakerState.CLOSED)[number % 2])
        await store.hold("sms")
        before = await store.ledger.latest()
        assert await retention.purge_ledger(0, AGES, 100) == RecordStep(0, None)
        await store.execute(sa.update(breaker_transitions).values(at=1))
        assert await retention.purge_ledger(0, AGES, 3) == RecordStep(3, 3)
        assert await retention.purge_ledger(3, AGES, 3) == RecordStep(1, 6)
        # What stays is looked at once a pass, and does not keep the rest from leaving.
        assert await retention.purge_ledger(6, AGES, 100) == RecordStep(0, None)
        assert await self.count(store, breaker_transitions) == NEWEST_KEPT + 1
        assert (await store.ledger.latest()).keys() == before.keys()
        assert (await store.ledger.latest())["email"].generation == before["email"].generation

    async def test_a_pass_over_the_ledger_ends_at_what_is_young(
        self, store: Store, retention: SqlRetention
    ) -> None:
        for number in range(NEWEST_KEPT + 6):
            await store.move("email", (BreakerState.OPEN, BreakerState.CLOSED)[number % 2])
        await store.execute(
            sa.update(breaker_transitions).where(breaker_transitions.c.revision < 4).values(at=1)
        )
        assert await retention.purge_ledger(0, AGES, 3) == RecordStep(3, 3)
        assert await retention.purge_ledger(3, AGES, 3) == RecordStep(0, None)

    async def test_a_workers_own_moves_leave_whatever_is_kept(
        self, store: Store, retention: SqlRetention
    ) -> None:
        await store.hold()
        await store.execute(sa.update(breaker_transitions).values(at=1, scope="w1"))
        assert await retention.purge_ledger(0, AGES, 3) == RecordStep(1, None)

    async def test_incidents_leave_once_they_are_over(self, store: Store, retention: SqlRetention) -> None:
        for name in ("email", "sms", "fax"):
            await store.hold(name)
        for name in ("email", "sms"):
            await store.lift(name)
        assert await retention.purge_records(AGES, 100) == 0
        await store.execute(sa.update(incidents).values(opened_at=1))
        await store.execute(sa.update(incidents).where(incidents.c.breaker != "fax").values(closed_at=2))
        assert await retention.purge_records(AGES, 1) == 1
        assert await retention.purge_records(AGES, 1) == 1
        assert await self.count(store, incidents) == 1

    async def test_filed_messages_and_traces_of_workers_leave(
        self, store: Store, retention: SqlRetention
    ) -> None:
        await store.recovery.file_undecodable([(b"?", {}), (b"!", {})])
        await store.presence.beat("w1", ["email"], {"email": 1})
        await store.presence.beat("w2", ["email"], {"email": 1})
        assert await retention.purge_records(AGES, 100) == 0
        now = await store.database.now()
        await store.execute(
            sa.update(undecodable).where(undecodable.c.body == b"?").values(filed_at=now - 31 * DAY)
        )
        for table, at in ((workers, "beat_at"), (claim_fronts, "seen_at")):
            mine = table.c.worker_id == "w1"
            await store.execute(sa.update(table).where(mine).values({at: now - 2 * 3_600_000}))
        # Where a worker was an hour ago says nothing any more; what it served yesterday does.
        assert await retention.purge_records(AGES, 100) == 2
        assert await store.presence.served_types(timedelta(days=1)) == {"email"}
        await store.execute(
            sa.update(workers).where(workers.c.worker_id == "w1").values(beat_at=now - 2 * DAY)
        )
        assert await retention.purge_records(AGES, 100) == 1
        assert await self.count(store, workers) == await self.count(store, undecodable) == 1

    async def test_faults_leave_that_ended_long_ago(self, store: Store, retention: SqlRetention) -> None:
        injected = SqlFaults(store.database)
        await store.types.ensure([f"type-{number}" for number in range(3)], 10)
        now = await store.database.now()
        for number, days in enumerate((31, 29, -1)):
            fault = Fault(new_id(), f"type-{number}", "API_TIMEOUT", 0.5, timedelta(hours=1), "ada", "to see")
            await injected.inject(fault)
            ended = {"ends_at": now - days * DAY}
            await store.execute(sa.update(faults).where(faults.c.fault_id == fault.fault_id).values(**ended))
        assert await retention.purge_records(AGES, 100) == 1
        left = await injected.list(active_only=False, limit=10, before=None)
        assert {record.fault.job_type for record in left} == {"type-1", "type-2"}

    async def test_redrives_leave_that_ended_long_ago(self, store: Store, retention: SqlRetention) -> None:
        await store.isolated()
        made = [
            (await store.redrives.create(NewRedrive(new_id(), "", 1.0, "ada", ""), 10))[0].redrive_id
            for _ in range(3)
        ]
        for redrive_id in made[:2]:
            await store.redrives.cancel(redrive_id, "ada", "")
        await store.redrives.learn(made[0], "email", 10)
        await store.redrives.finish(made[0])
        assert await retention.purge_records(AGES, 100) == 0
        await store.execute(sa.update(redrives).values(finished_at=1))
        assert await retention.purge_records(AGES, 100) == 2  # it, and its type
        # What was cancelled, but has not been seen to the end, stays; so does what runs.
        assert [one.redrive_id for one in await store.redrives.page(10, None)] == made[:0:-1]

    async def test_types_without_a_job_are_idle_once_they_are_old(
        self, store: Store, retention: SqlRetention
    ) -> None:
        await store.types.ensure(["idle", "young", "held", "governed", "cleared"], 10)
        for name, override in (("governed", PolicyOverride(probes=2)), ("cleared", PolicyOverride())):
            await SqlPolicies(store.database).put(name, override, etag="0", actor="ada", reason="")
        await store.succeeded("busy")
        await store.hold("held")
        aged = job_types.c.job_type != "young"
        await store.execute(
            sa.update(job_types).where(aged).values(created_at=job_types.c.created_at - 2 * DAY)
        )
        assert sorted(await retention.idle_types(DAY)) == ["cleared", "idle"]

    async def test_a_type_is_dropped_unless_a_job_has_come(
        self, store: Store, retention: SqlRetention
    ) -> None:
        await store.types.ensure(["idle"], 10)
        await store.submit("busy")
        assert await retention.drop_type("idle")
        assert not await retention.drop_type("idle")
        assert not await retention.drop_type("busy")
        assert set(await store.types.all()) == {"busy"}

    async def test_types_of_jobs_that_are_not_listed_are_found(
        self, store: Store, retention: SqlRetention
    ) -> None:
        assert await retention.unlisted_types() == []
        for name in ("a", "b", "b", "c", "d"):
            await store.submit(name)
        await store.succeeded("e")
        assert await retention.unlisted_types() == []
        gone = job_types.c.job_type.in_(["b", "d", "e"])
        await store.execute(sa.delete(job_types).where(gone))
        assert await retention.unlisted_types() == ["b", "d", "e"]


class TestSqliteRetention(OnSqlite, RetentionContract):
    pass


class TestPostgresRetention(OnPostgres, RetentionContract):
    pass
