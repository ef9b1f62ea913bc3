"""The `Policies` port, what types need, and the holds that follow from both."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.policies import SqlPolicies
from jobkit.adapters.sql.tables import type_needs
from jobkit.domain.breaker import BreakerRecord, BreakerState, Mode
from jobkit.domain.errors import Aborted
from jobkit.domain.job import JobState
from jobkit.domain.policy import PolicyOverride, PolicySet
from jobkit.domain.tripping import open_by_hand, reset
from jobkit.ports import Policies, TypeInfo
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract

SHADOW = PolicyOverride(mode=Mode.SHADOW)
ENFORCED = PolicyOverride(mode=Mode.ENFORCED)
FULL = PolicyOverride(
    Mode.DISABLED, 7, 0.25, 30, 10_000, 5_000, 90_000, 2, 3, 1_500, 0.75, frozenset({"A", "B"})
)


class PoliciesContract(StoreContract):
    @pytest.fixture
    def policies(self, store: Store) -> Policies:
        return SqlPolicies(store.database)

    async def test_at_first_there_are_none(self, policies: Policies) -> None:
        assert await policies.revision() == 0
        assert await policies.current() == PolicySet()
        assert await policies.list() == []
        assert await policies.get("email") is None

    async def test_a_policy_comes_back_as_it_was(self, policies: Policies) -> None:
        stored = await policies.put("mail.*", FULL, etag="0", actor="Zoë", reason="why")
        assert (stored.override, stored.revision, stored.etag) == (FULL, 1, "1")
        assert (stored.actor, stored.reason) == ("Zoë", "why")
        assert stored.updated_at > 1_600_000_000_000
        assert await policies.get("mail.*") == stored
        assert await policies.list() == [stored]
        assert await policies.current() == PolicySet(1, {"mail.*": FULL})

    async def test_the_revision_grows_with_every_change(self, policies: Policies) -> None:
        await policies.put("b", SHADOW, etag="0", actor="", reason="")
        await policies.put("a", SHADOW, etag="0", actor="", reason="")
        assert await policies.revision() == 2
        assert [policy.pattern for policy in await policies.list()] == ["a", "b"]
        changed = await policies.put("b", PolicyOverride(), etag="1", actor="", reason="")
        assert (changed.override, changed.etag) == (PolicyOverride(), "3")

    @pytest.mark.parametrize("etag", ["", "0", "2", "x"])
    async def test_another_etag_is_refused(self, policies: Policies, etag: str) -> None:
        await policies.put("email", SHADOW, etag="0", actor="", reason="")
        with pytest.raises(Aborted) as caught:
            await policies.put("email", ENFORCED, etag=etag, actor="", reason="")
        assert (caught.value.reason, caught.value.metadata["etag"]) == ("ETAG_MISMATCH", "1")
        assert await policies.revision() == 1
        found = await policies.get("email")
        assert found is not None
        assert found.override == SHADOW

    async def test_one_of_several_at_once_wins(self, policies: Policies) -> None:
        writes = (policies.put("email", SHADOW, etag="0", actor=str(n), reason="") for n in range(5))
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 1

    # -- holds

    async def info(self, store: Store, name: str) -> TypeInfo:
        return (await store.types.all())[name]

    def opened(self, name: str, generation: int = 10) -> BreakerRecord:
        return open_by_hand(BreakerRecord(name), generation, 90_000, "ann", "")

    async def test_a_shadow_holds_nothing_until_it_is_enforced(
        self, store: Store, policies: Policies
    ) -> None:
        await policies.put("em*", SHADOW, etag="0", actor="", reason="")
        await store.ledger.record(self.opened("email"))
        assert not (await self.info(store, "email")).held
        await policies.put("email", ENFORCED, etag="0", actor="", reason="")
        info = await self.info(store, "email")
        assert (info.held, info.hold_number, info.held_since, info.held_until) == (True, 1, 10, 90_000)
        await policies.put("email", PolicyOverride(), etag="2", actor="", reason="")
        assert not (await self.info(store, "email")).held

    async def test_a_dependency_holds_its_types_and_no_others(self, store: Store) -> None:
        await store.types.ensure(["email", "letters", "sms"], 100)
        await store.types.need({"email": ["smtp"], "letters": ["printer", "smtp"]})
        assert await store.types.breakers() == ["@printer", "@smtp", "email", "letters", "sms"]
        record = self.opened("@smtp")
        await store.ledger.record(record)
        types = await store.types.all()
        assert {name: info.held_breaker for name, info in types.items()} == {
            "email": "@smtp",
            "letters": "@smtp",
            "sms": "",
        }
        job = await store.submit("email")
        held = (await store.reader.get([job]))[job]
        assert held.state is JobState.QUARANTINED
        assert held.quarantine is not None
        assert held.quarantine.breaker == "@smtp"
        await store.ledger.record(reset(record, 20, "ann", ""))
        assert not any(info.held for info in (await store.types.all()).values())
        assert (await store.ledger.latest())["@smtp"].state is BreakerState.CLOSED

    async def test_a_type_flows_when_all_its_breakers_let_it(self, store: Store) -> None:
        await store.types.ensure(["email"], 100)
        await store.types.need({"email": ["smtp"]})
        own, smtp = self.opened("email", 5), self.opened("@smtp", 10)
        await store.ledger.record(own)
        await store.ledger.record(smtp)
        info = await self.info(store, "email")
        assert (info.held_breaker, info.held_since, info.hold_number) == ("email", 5, 1)
        await store.ledger.record(reset(own, 20, "ann", ""))
        info = await self.info(store, "email")
        assert (info.held, info.held_breaker, info.hold_number) == (True, "@smtp", 1)
        await store.ledger.record(smtp)  # late
        await store.ledger.record(reset(smtp, 30, "ann", ""))
        await store.ledger.record(smtp)
        assert not (await self.info(store, "email")).held

    async def test_a_held_dependency_is_rebuilt_with_its_end(self, store: Store) -> None:
        await store.ledger.record(self.opened("@smtp"))
        latest = (await store.ledger.latest())["@smtp"]
        assert (latest.state, latest.open_until) == (BreakerState.OPEN, 90_000)

    async def test_who_begins_to_need_what_is_down_is_held(self, store: Store) -> None:
        await store.ledger.record(self.opened("@smtp"))
        await store.types.ensure(["email"], 100)
        assert not (await self.info(store, "email")).held
        await store.types.need({"email": ["smtp"]})
        await store.types.need({"email": ["smtp"]})
        assert (await self.info(store, "email")).held

    async def test_what_nobody_announces_any_more_is_forgotten(self, store: Store) -> None:
        await store.types.ensure(["email"], 100)
        await store.types.need({"email": ["old", "smtp"]})
        await store.types.need({"email": ["smtp"]})
        assert "@old" in await store.types.breakers()  # another worker may still have it
        long_ago = sa.update(type_needs).where(type_needs.c.dependency == "old").values(seen_at=1)
        await store.database.write(lambda c: c.execute(long_ago))
        assert "@old" not in await store.types.breakers()
        await store.types.need({"email": ["smtp"]})
        count = sa.select(sa.func.count()).select_from(type_needs)
        assert (await store.database.read(lambda c: c.execute(count))).scalar_one() == 1

    async def test_two_breakers_of_a_type_that_move_at_once(self, store: Store) -> None:
        await store.types.ensure(["email"], 100)
        await store.types.need({"email": ["a", "b", "c"]})
        names = ("email", "@a", "@b", "@c")
        for generation in range(10, 60, 10):
            records = [self.opened(name, generation) for name in names]
            await asyncio.gather(*(store.ledger.record(record) for record in records))
            assert (await self.info(store, "email")).held
            closed = [reset(record, generation + 5, "", "") for record in records]
            await asyncio.gather(*(store.ledger.record(record) for record in closed))
            assert not (await self.info(store, "email")).held


class TestPoliciesOnSqlite(OnSqlite, PoliciesContract):
    pass


class TestPoliciesOnPostgres(OnPostgres, PoliciesContract):
    pass
