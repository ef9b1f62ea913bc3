"""The `Faults` port."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.faults import SqlFaults
from jobkit.adapters.sql.revisions import SqlRevisions
from jobkit.adapters.sql.tables import faults as table
from jobkit.domain.errors import NotFound
from jobkit.domain.fault import REPLACED, Fault
from jobkit.ports import Faults
from jobkit.ports.revisions import FAULTS
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_id

MINUTE = timedelta(minutes=1)


def fault_of(job_type: str = "email", code: str = "API_TIMEOUT", lasts: timedelta = MINUTE) -> Fault:
    return Fault(new_id(), job_type, code, 0.25, lasts, "Zoë", "why")


class FaultsContract(StoreContract):
    @pytest.fixture
    async def faults(self, store: Store) -> Faults:
        await store.types.ensure(["email", "sms"], 10)
        return SqlFaults(store.database)

    async def test_at_first_there_are_none(self, faults: Faults) -> None:
        assert await faults.revision() == 0
        assert await faults.active() == []
        assert await faults.list(active_only=False, limit=10, before=None) == []

    async def test_a_fault_comes_back_with_the_time_that_it_has_left(
        self, store: Store, faults: Faults
    ) -> None:
        fault = fault_of()
        before = await store.database.now()
        stored = await faults.inject(fault)
        assert (stored.ttl, stored.stopped_at, stored.stopped_by) == (MINUTE, None, "")
        assert before <= stored.injected_at <= await store.database.now()
        (active,) = await faults.active()
        assert (active.fault_id, active.job_type, active.error_code) == (
            fault.fault_id,
            "email",
            "API_TIMEOUT",
        )
        assert (active.rate, active.actor, active.reason) == (0.25, "Zoë", "why")
        assert MINUTE - timedelta(seconds=10) < active.remaining <= MINUTE
        assert await faults.revision() == (await SqlRevisions(store.database).read())[FAULTS] == 1

    async def test_it_ends_by_database_time(self, store: Store, faults: Faults) -> None:
        fault = fault_of()
        await faults.inject(fault)
        await store.execute(sa.update(table).values(ends_at=await store.database.now()))
        assert await faults.active() == []
        assert await faults.list(active_only=True, limit=10, before=None) == []
        (over,) = await faults.list(active_only=False, limit=10, before=None)
        assert (over.fault.remaining, over.stopped_at) == (timedelta(), None)

    async def test_it_can_be_stopped_once(self, faults: Faults) -> None:
        fault = fault_of()
        await faults.inject(fault)
        revision = await faults.revision()
        stopped = await faults.stop(fault.fault_id, "ada", "seen \x00 enough")
        assert (stopped.fault.remaining, stopped.stopped_by) == (timedelta(), "ada")
        assert stopped.stop_reason == "seen \ufffd enough"
        assert await faults.active() == []
        assert await faults.revision() > revision
        again = await faults.stop(fault.fault_id, "bob", "late")
        assert (again.stopped_by, again.stopped_at) == ("ada", stopped.stopped_at)

    async def test_one_of_the_same_type_and_code_is_replaced(self, faults: Faults) -> None:
        first, other, second = fault_of(), fault_of(code="NETWORK_ERROR"), fault_of()
        for fault in (first, other, second):
            await faults.inject(fault)
        assert [fault.fault_id for fault in await faults.active()] == [other.fault_id, second.fault_id]
        found = {
            one.fault.fault_id: one for one in await faults.list(active_only=False, limit=9, before=None)
        }
        assert (found[first.fault_id].stopped_by, found[first.fault_id].stop_reason) == ("Zoë", REPLACED)

    async def test_they_are_listed_newest_first_and_on_from_one(self, faults: Faults) -> None:
        ids: list[UUID] = []
        for job_type in ("email", "sms"):
            for code in ("A", "B"):
                fault = fault_of(job_type, code)
                await faults.inject(fault)
                ids.insert(0, fault.fault_id)
        page = await faults.list(active_only=True, limit=3, before=None)
        assert [one.fault.fault_id for one in page] == ids[:3]
        rest = await faults.list(active_only=True, limit=3, before=ids[2])
        assert [one.fault.fault_id for one in rest] == ids[3:]

    async def test_what_does_not_exist_is_told(self, faults: Faults) -> None:
        with pytest.raises(NotFound) as no_type:
            await faults.inject(fault_of("nobody"))
        assert no_type.value.reason == "TYPE_NOT_FOUND"
        with pytest.raises(NotFound) as no_fault:
            await faults.stop(new_id(), "ada", "")
        assert no_fault.value.reason == "FAULT_NOT_FOUND"
        assert await faults.revision() == 0  # neither changed anything


class TestFaultsOnSqlite(OnSqlite, FaultsContract):
    pass


class TestFaultsOnPostgres(OnPostgres, FaultsContract):
    pass
