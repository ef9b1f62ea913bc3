"""Incidents of a dependency amount to what waits behind it, of every type that needs it."""

from __future__ import annotations

from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_job

SMTP = "@smtp"


class DependencyContract(StoreContract):
    async def needed(self, store: Store) -> None:
        """Two types need it, with jobs of theirs and of a third one waiting."""
        await store.types.ensure(["email", "receipt", "sms"], 10)
        await store.types.need({"email": ["smtp"], "receipt": ["smtp", "disk"], "sms": ["disk"]})
        await store.insert([new_job("email") for _ in range(3)])
        await store.insert([new_job("receipt") for _ in range(2)])
        await store.insert([new_job("sms") for _ in range(4)])

    async def sums(self, store: Store) -> tuple[int, int, int]:
        (incident,) = await store.history.incidents(SMTP, open_only=False, size=10, before=None)
        return incident.jobs_held, incident.attempts_saved, incident.calls_avoided

    async def test_what_waits_behind_a_dependency_is_weighed_while_it_is_out(self, store: Store) -> None:
        await self.needed(store)
        await store.hold(SMTP)
        await store.sums.weigh(100)
        assert await self.sums(store) == (5, 5, 5)
        assert (await store.sums.tally(100)).saved == {SMTP: 5}

    async def test_and_when_it_closes(self, store: Store) -> None:
        await self.needed(store)
        await store.hold(SMTP)
        await store.lift(SMTP)
        assert await self.sums(store) == (5, 5, 5)

    async def test_all_its_types_together_are_one_bounded_look(self, store: Store) -> None:
        await self.needed(store)
        await store.hold(SMTP)
        await store.sums.weigh(4)
        assert (await self.sums(store))[0] == 4
        await store.sums.weigh(3)
        assert (await self.sums(store))[0] == 4


class TestSqliteDependency(OnSqlite, DependencyContract):
    pass


class TestPostgresDependency(OnPostgres, DependencyContract):
    pass
