"""What every `LimitStore` does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from jobkit.domain import budget
from jobkit.domain.budget import Statement
from jobkit.domain.limit import EPOCH_MS, LEASE_MS, LaneReport, Plan, Share, decide_plan
from jobkit.ports import LimitStore
from worker.exchange import exchange


def report(in_use: int = 0, limit: int | None = None, revision: int = 0, **more: object) -> LaneReport:
    return LaneReport(in_use, 16, True, limit, revision, **more)  # type: ignore[arg-type]


class LimitStoreContract:
    """`wait` lets the store's clock go on by so many milliseconds."""

    @pytest.fixture
    def store(self) -> LimitStore:
        raise NotImplementedError

    async def wait(self, milliseconds: int) -> None:
        raise NotImplementedError

    @pytest.fixture
    def name(self) -> str:
        return f"type-{uuid4().hex[:8]}"

    async def slots(self, store: LimitStore, worker: str, name: str, **more: object) -> int | None:
        share = (await exchange(store, worker, {name: report(**more)}))[name]  # type: ignore[arg-type]
        return None if share is None else share.slots

    async def test_without_a_reason_there_is_no_limit(self, store: LimitStore, name: str) -> None:
        assert await exchange(store, "a", {name: report()}) == {name: None}

    async def test_a_lone_worker_has_all_of_it(self, store: LimitStore, name: str) -> None:
        assert await self.slots(store, "a", name, limit=3, revision=1) == 3

    async def test_two_share_and_never_hold_more_than_there_is(self, store: LimitStore, name: str) -> None:
        first = await self.slots(store, "a", name, limit=3, revision=1)
        second = await self.slots(store, "b", name, limit=3, revision=1)
        assert (first, second) == (3, 0)
        held = {"a": 3, "b": 0}
        for _ in range(4):
            await self.wait(EPOCH_MS + 50)
            for worker in ("a", "b"):
                held[worker] = await self.slots(store, worker, name, limit=3, revision=1) or 0
                assert sum(held.values()) <= 3
        assert sorted(held.values()) == [1, 2]

    async def test_what_runs_keeps_its_slot(self, store: LimitStore, name: str) -> None:
        assert await self.slots(store, "a", name, limit=3, revision=1) == 3
        await self.wait(EPOCH_MS + 50)
        for _ in range(2):
            assert await self.slots(store, "b", name, limit=3, revision=1) == 0
            assert (await self.slots(store, "a", name, in_use=3, limit=3, revision=1) or 0) <= 2
            await self.wait(EPOCH_MS + 50)
        # Only what a has given back is b's.
        await self.slots(store, "a", name, in_use=1, limit=3, revision=1)
        assert await self.slots(store, "b", name, limit=3, revision=1) in (1, 2)

    async def test_a_dead_workers_slots_come_back(self, store: LimitStore, name: str) -> None:
        assert await self.slots(store, "dead", name, in_use=3, limit=3, revision=1) == 3
        assert await self.slots(store, "b", name, limit=3, revision=1) == 0
        await self.wait(LEASE_MS + 50)
        assert await self.slots(store, "b", name, limit=3, revision=1) == 3

    async def test_who_leaves_gives_back_at_once(self, store: LimitStore, name: str) -> None:
        assert await self.slots(store, "a", name, limit=3, revision=1) == 3
        assert await self.slots(store, "a", name, leaving=True, limit=3, revision=1) is None
        await self.wait(EPOCH_MS + 50)
        assert await self.slots(store, "b", name, limit=3, revision=1) == 3

    async def test_a_newer_revision_counts_at_once_and_an_older_one_never(
        self, store: LimitStore, name: str
    ) -> None:
        assert await self.slots(store, "a", name, limit=3, revision=1) == 3
        assert await self.slots(store, "a", name, limit=5, revision=2) == 5
        assert await self.slots(store, "a", name, limit=9, revision=1) == 5
        assert await self.slots(store, "a", name, limit=None, revision=3) is None
        assert await self.slots(store, "a", name, limit=9, revision=1) is None

    async def test_a_closed_breaker_begins_a_recovery_once(self, store: LimitStore, name: str) -> None:
        share = (await exchange(store, "a", {name: report(generation=7)}))[name]
        assert share is not None
        assert share.rate == 20
        # Who has not seen it close joins.
        await exchange(store, "b", {name: report()})
        await self.wait(EPOCH_MS + 50)
        await exchange(store, "a", {name: report(span_ms=1000)})
        share = (await exchange(store, "b", {name: report(span_ms=1000)}))[name]
        assert share is not None
        assert share.rate is not None

    async def test_what_was_done_is_added_up_and_counted_once(self, store: LimitStore, name: str) -> None:
        done = report(generation=7, started=5, ok=3, failed=1, took_ms=60, span_ms=500)
        await exchange(store, "a", {name: report(generation=7)})
        await self.wait(EPOCH_MS + 50)
        grant = (await store.report("a", {name: done}))[name]
        assert grant.material is not None
        epoch = grant.material.epoch
        assert (epoch.started, epoch.ok, epoch.failed, epoch.took_ms) == (5, 3, 1, 60)
        assert epoch.lacked
        assert epoch.seconds == pytest.approx(0.5, abs=0.01)
        # Reported while somebody plans: it belongs to the next epoch.
        await store.report("a", {name: done})
        await store.plan({name: (*decide_plan(grant.material, done), grant.material)})
        await self.wait(EPOCH_MS + 50)
        grant = (await store.report("a", {name: replace(done, started=0)}))[name]
        assert grant.material is not None
        assert grant.material.epoch.ok in (3, 6)

    async def test_one_reporter_an_epoch_plans(self, store: LimitStore, name: str) -> None:
        await exchange(store, "a", {name: report(limit=3, revision=1)})
        await self.wait(EPOCH_MS + 50)
        first = (await store.report("a", {name: report()}))[name]
        second = (await store.report("b", {name: report()}))[name]
        assert first.material is not None
        assert second.material is None

    async def test_of_two_plans_the_first_stands(self, store: LimitStore, name: str) -> None:
        grant = (await store.report("a", {name: report(limit=3, revision=1)}))[name]
        material = grant.material
        assert material is not None
        plan = Plan(number=1, limit=3, operators=3, revision=1)
        await store.plan({name: (plan, {"a": Share(2)}, material)})
        await store.plan({name: (replace(plan, number=2, limit=9), {"a": Share(9)}, material)})
        assert (await store.report("a", {name: report(revision=1)}))[name].share == Share(2)

    async def test_types_do_not_touch_one_another(self, store: LimitStore, name: str) -> None:
        limits = {f"{name}-{n}": n for n in range(1, 31)}
        reports = {one: report(limit=n, revision=1) for one, n in limits.items()}
        found = await exchange(store, "a", reports)
        assert {one: share.slots for one, share in found.items() if share} == {
            one: min(n, 16) for one, n in limits.items()
        }

    async def test_a_budget_says_what_the_domain_says(self, store: LimitStore, name: str) -> None:
        bucket = budget.Bucket()
        for statement in (
            Statement(0, 3, 5),
            Statement(100, 0, 5),
            Statement(0, 400),
            Statement(50, 1, 5),
        ):
            (account,) = (await store.spend({name: statement})).values()
            bucket, expected = budget.settle(bucket, statement, 1_000_000)
            # The store's clock went on a little.
            assert account.block == pytest.approx(expected.block, abs=1)
            assert account.debt == pytest.approx(expected.debt, abs=1)
            assert account.income == pytest.approx(expected.income, rel=0.1)

    async def test_closing_twice_is_safe(self, store: LimitStore) -> None:
        await store.close()
        await store.close()
        await asyncio.sleep(0)
