"""What operators do to job types, on both databases: pauses hold, limits are told, and all of it is recorded."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.retention import SqlRetention
from jobkit.adapters.sql.tables import type_changes
from jobkit.adapters.sql.typesteering import SqlTypeSteering
from jobkit.domain.errors import InvalidJob, NotFound
from jobkit.domain.filter import JobFilter
from jobkit.domain.job import JobState, QuarantineReason
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract

PAUSED, BREAKER_OPEN = QuarantineReason.PAUSED, QuarantineReason.BREAKER_OPEN


class TypeSteeringContract(StoreContract):
    @pytest.fixture
    async def types(self, store: Store) -> SqlTypeSteering:
        await store.types.ensure(["email", "sms"], 10)
        return SqlTypeSteering(store.database)

    async def reason(self, store: Store, job_id: UUID) -> QuarantineReason | None:
        job = await store.get(job_id)
        assert (job.state is JobState.QUARANTINED) == (job.quarantine is not None)
        return job.quarantine.reason if job.quarantine else None

    async def found(self, store: Store, **terms: Any) -> set[UUID]:
        jobs, _ = await store.reader.page(JobFilter(**terms), 100, None)
        return {job.job_id for job in jobs}

    async def test_a_paused_types_jobs_read_as_held(self, store: Store, types: SqlTypeSteering) -> None:
        job_id, other = await store.submit("email"), await store.submit("sms")
        running = await store.running("email")
        later = await store.retrying("email")
        info = await types.pause("email", "ada", "they move", None)
        assert info.pause is not None
        assert (info.pause.actor, info.pause.reason, info.waits, info.held) == (
            "ada",
            "they move",
            True,
            False,
        )
        assert await self.reason(store, job_id) is PAUSED
        job = await store.get(job_id)
        assert job.quarantine is not None
        assert (job.quarantine.breaker, job.holds) == ("", 1)
        assert [await self.reason(store, one) for one in (other, running, later)] == [None, None, None]
        assert await self.found(store, state=JobState.QUARANTINED) == {job_id}
        assert await self.found(store, reason=PAUSED) == {job_id}
        assert await self.found(store, reason=PAUSED, job_type="email") == {job_id}
        assert await self.found(store, reason=BREAKER_OPEN) == set()
        assert await self.found(store, state=JobState.QUEUED) == {other}
        assert (await store.recovery.count_waiting())["email", "HELD"] == 1
        await types.resume("email", "ada", "")
        assert await self.reason(store, job_id) is None
        assert (await store.get(job_id)).holds == 1

    async def test_a_pause_and_an_open_breaker_are_one_hold_and_end_apart(
        self, store: Store, types: SqlTypeSteering
    ) -> None:
        job_id = await store.submit("email")
        await store.hold("email")
        assert await self.reason(store, job_id) is BREAKER_OPEN
        await types.pause("email", "ada", "", None)
        assert await self.reason(store, job_id) is PAUSED
        assert await self.found(store, reason=BREAKER_OPEN) == set()
        await types.resume("email", "ada", "")
        assert await self.reason(store, job_id) is BREAKER_OPEN
        await types.pause("email", "ada", "", None)
        await store.lift("email")
        assert await self.reason(store, job_id) is PAUSED
        await store.hold("email")
        await types.resume("email", "ada", "")
        assert await self.reason(store, job_id) is BREAKER_OPEN
        assert (await store.get(job_id)).holds == 1
        assert (await store.claim(job_id)).delivery == 1
        assert (await store.get(job_id)).holds == 1

    async def test_a_pause_ends_by_itself_and_one_that_would_have_ended_is_refused(
        self, store: Store, types: SqlTypeSteering
    ) -> None:
        job_id = await store.submit("email")
        now = await store.database.now()
        with pytest.raises(InvalidJob):
            await types.pause("email", "ada", "", now - 1)
        info = await types.pause("email", "ada", "", now + 60_000)
        assert info.pause is not None
        assert info.pause.until == now + 60_000
        job = await store.get(job_id)
        assert job.quarantine is not None
        assert job.quarantine.until is not None
        await store.execute(
            sa.text(f"UPDATE job_types SET paused_until = {now - 1} WHERE job_type = 'email'")
        )
        assert await self.reason(store, job_id) is None
        assert (await store.types.all())["email"].pause is None
        # The next is another hold.
        await types.pause("email", "ada", "", None)
        assert (await store.get(job_id)).holds == 2

    async def test_held_jobs_are_steered_as_behind_a_breaker(
        self, store: Store, types: SqlTypeSteering
    ) -> None:
        ids = [await store.submit("email") for _ in range(3)]
        await types.pause("email", "ada", "", None)
        job, token = await store.steering.retry(ids[0], b'{"n":1}', uuid4())
        assert (token, job.payload, job.state) == (None, b'{"n":1}', JobState.QUARANTINED)
        assert (await store.steering.cancel(ids[1]))[0].state is JobState.CANCELLED
        assert (await store.steering.discard(ids[2]))[0].state is JobState.DISCARDED

    async def test_a_limit_is_told_with_a_revision(self, store: Store, types: SqlTypeSteering) -> None:
        first = await types.limit("email", 3, "ada", "they asked")
        second = await types.pause("sms", "ada", "", None)
        assert (first.slot_limit, second.revision) == (3, first.revision + 1)
        assert (await types.limit("email", 3, "ada", "")).revision == first.revision
        assert (await types.resume("email", "ada", "")).revision == first.revision
        assert (await types.limit("email", None, "bob", "")).slot_limit is None
        known = await store.types.all()
        assert known["email"].revision == second.revision + 1

    async def test_all_of_it_is_recorded(self, store: Store, types: SqlTypeSteering) -> None:
        await types.limit("email", 3, "ada", "they asked")
        until = await store.database.now() + 60_000
        await types.pause("email", "bob", "no\x00ul", until)
        await types.resume("email", "cy", "done")

        async def work(connection: Any) -> list[Any]:
            return list((await connection.execute(sa.select(type_changes).order_by("revision"))).all())

        rows = await store.database.read(work)
        assert [(r.job_type, r.action, r.actor, r.slot_limit, r.until) for r in rows] == [
            ("email", "limit", "ada", 3, None),
            ("email", "pause", "bob", None, until),
            ("email", "resume", "cy", None, None),
        ]

    async def test_an_unknown_type_is_not_found(self, types: SqlTypeSteering) -> None:
        with pytest.raises(NotFound):
            await types.pause("nobody", "ada", "", None)

    async def test_a_type_that_is_steered_is_not_dropped_for_being_idle(
        self, store: Store, types: SqlTypeSteering
    ) -> None:
        retention = SqlRetention(store.database)
        await types.limit("email", 3, "ada", "")
        await types.pause("sms", "ada", "", None)
        assert await retention.idle_types(-1000) == []
        await types.limit("email", None, "ada", "")
        assert await retention.idle_types(-1000) == ["email"]


class TestSqliteTypeSteering(OnSqlite, TypeSteeringContract):
    pass


class TestPostgresTypeSteering(OnPostgres, TypeSteeringContract):
    pass
