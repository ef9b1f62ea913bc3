"""What every BreakerStore does, whatever it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from jobkit.domain.breaker import (
    MAX_CODES,
    OTHER_CODE,
    BreakerPolicy,
    BreakerRecord,
    Evidence,
    Outcome,
    Seen,
    Window,
    outcomes_kept,
)
from jobkit.domain.tripping import close_by_hand, decide_evidence, decide_probe_time, open_by_hand, reset
from jobkit.ports import BreakerStore

SAMPLE, WINDOW = 50, 60_000
LEASE = timedelta(seconds=30)
Pass = Callable[[int], Awaitable[None]]


def failed(code: str, count: int = 1, generation: int = 0) -> Evidence:
    """`count` failures, each of a job of its own."""
    return Evidence(generation, tuple(Outcome(uuid4(), code) for _ in range(count)))


def succeeded(count: int = 1, generation: int = 0) -> Evidence:
    return failed("", count, generation)


class BreakerStoreContract:
    @pytest.fixture
    def store(self) -> BreakerStore:
        raise NotImplementedError

    @pytest.fixture
    def name(self) -> str:
        """A breaker that nobody else uses, with every character a name may hold."""
        raise NotImplementedError

    @pytest.fixture
    def let_pass(self) -> Pass:
        """Lets so many milliseconds of the store's time pass."""
        raise NotImplementedError

    async def record(self, store: BreakerStore, name: str) -> BreakerRecord:
        return (await store.read([name])).get(name) or BreakerRecord(name)

    async def opened(self, store: BreakerStore, name: str, until: int | None = None) -> BreakerRecord:
        before = await self.record(store, name)
        after = open_by_hand(before, await store.now(), until, "ann", "maintenance")
        assert await store.swap(name, before.generation, after)
        return after

    async def test_time_goes_on(self, store: BreakerStore, let_pass: Pass) -> None:
        before = await store.now()
        await let_pass(20)
        assert 20 <= await store.now() - before < 2_000

    async def test_what_does_not_exist_is_not_read(self, store: BreakerStore, name: str) -> None:
        assert await store.read([name]) == {}
        assert await store.read([]) == {}

    async def test_a_created_breaker_is_closed(self, store: BreakerStore, name: str) -> None:
        await store.create(name)
        assert await store.read([name, f"{name}-other"]) == {name: BreakerRecord(name)}

    async def test_creating_keeps_what_exists(self, store: BreakerStore, name: str) -> None:
        record = await self.opened(store, name)
        await store.create(name)
        assert await store.read([name]) == {name: record}

    async def test_a_record_comes_back_as_it_was(self, store: BreakerStore, name: str) -> None:
        record = open_by_hand(BreakerRecord(name), await store.now(), None, "", 'quo"te } ü \n end')
        record = replace(record, error_code="E", reopened=3, successes=2)
        assert await store.swap(name, 0, record)
        assert (await store.read([name]))[name] == record

    async def test_a_swap_needs_the_current_generation(self, store: BreakerStore, name: str) -> None:
        now = await store.now()
        first = await self.opened(store, name)
        late = reset(BreakerRecord(name), now, "bob", "")
        assert not await store.swap(name, 0, late)
        assert (await store.read([name]))[name] == first

    async def test_a_generation_never_goes_back(self, store: BreakerStore, name: str) -> None:
        record = await self.opened(store, name)
        for older in (record, replace(record, generation=record.generation - 1)):
            assert not await store.swap(name, record.generation, older)

    async def test_one_of_many_swaps_wins(self, store: BreakerStore, name: str) -> None:
        now = await store.now()
        rivals = [open_by_hand(BreakerRecord(name), now, None, f"actor-{i}", "") for i in range(10)]
        won = await asyncio.gather(*(store.swap(name, 0, rival) for rival in rivals))
        assert won.count(True) == 1
        assert (await store.read([name]))[name] == rivals[won.index(True)]

    async def test_two_probes_that_finish_at_once_both_count(self, store: BreakerStore, name: str) -> None:
        record = await self.opened(store, name)
        once, twice = replace(record, successes=1), replace(record, successes=2)
        assert await store.swap(name, record.generation, once)
        assert not await store.swap(name, record.generation, once)
        assert await store.swap(name, record.generation, twice)

    async def test_failures_are_counted_by_code(self, store: BreakerStore, name: str) -> None:
        job = uuid4()
        pairs = ((job, "A"), (job, "A"), (uuid4(), ""), (uuid4(), "B"))
        again = Evidence(0, tuple(Outcome(*pair) for pair in pairs))
        before = await store.now()
        window = await store.report(name, again, SAMPLE, WINDOW)
        assert (window.distinct_jobs, window.failures) == ({"A": 1, "B": 1}, {"A": 2, "B": 1})
        assert window.recent == ("B", "", "A", "A")
        assert window.first_failure_at is not None
        assert before <= window.first_failure_at <= window.now
        assert window.record == BreakerRecord(name)

    async def test_reports_add_up_across_reporters(self, store: BreakerStore, name: str) -> None:
        await store.report(name, failed("A", 2), SAMPLE, WINDOW)
        await store.report(name, succeeded(3), SAMPLE, WINDOW)
        window = await store.report(name, failed("A"), SAMPLE, WINDOW)
        assert window.distinct_jobs == {"A": 3}
        assert window.recent == ("A", "", "", "", "A", "A")

    async def test_a_window_can_be_looked_at_without_adding(self, store: BreakerStore, name: str) -> None:
        reported = await store.report(name, failed("A", 3), SAMPLE, WINDOW)
        window = await store.window(name, SAMPLE, WINDOW)
        assert replace(window, now=reported.now) == reported

    async def test_a_window_of_nothing_is_empty(self, store: BreakerStore, name: str) -> None:
        window = await store.window(name, SAMPLE, WINDOW)
        assert window == Window(now=window.now, record=BreakerRecord(name))

    async def test_an_empty_report_adds_nothing(self, store: BreakerStore, name: str) -> None:
        assert (await store.report(name, succeeded(0), SAMPLE, WINDOW)).recent == ()

    async def test_only_the_newest_outcomes_are_kept(self, store: BreakerStore, name: str) -> None:
        many = Evidence(0, (*failed("A", 3).outcomes, *succeeded(9).outcomes, *failed("B").outcomes))
        window = await store.report(name, many, 5, WINDOW)
        assert window.recent == ("B", "", "", "", "")
        assert window.distinct_jobs == {"A": 3, "B": 1}

    async def test_evidence_of_another_generation_is_dropped(self, store: BreakerStore, name: str) -> None:
        record = await self.opened(store, name)
        for generation in (0, record.generation - 1, record.generation + 1):
            window = await store.report(name, failed("A", 5, generation), SAMPLE, WINDOW)
            assert (window.record, window.recent, window.distinct_jobs) == (record, (), {})

    async def test_evidence_leaves_the_window(self, store: BreakerStore, name: str, let_pass: Pass) -> None:
        await store.report(name, failed("A", 2), SAMPLE, 900)
        await let_pass(600)
        window = await store.report(name, failed("B"), SAMPLE, 900)
        assert window.distinct_jobs == {"A": 2, "B": 1}
        assert window.first_failure_at is not None
        assert window.now - window.first_failure_at >= 600
        await let_pass(500)
        window = await store.window(name, SAMPLE, 900)
        assert (window.distinct_jobs, window.failures, window.recent) == ({"B": 1}, {"B": 1}, ("B",))

    async def test_a_job_that_fails_again_stays_in_the_window(
        self, store: BreakerStore, name: str, let_pass: Pass
    ) -> None:
        again = failed("A")
        await store.report(name, again, SAMPLE, 900)
        await let_pass(600)
        await store.report(name, again, SAMPLE, 900)
        await let_pass(500)
        assert (await store.window(name, SAMPLE, 900)).distinct_jobs == {"A": 1}

    async def test_codes_are_bounded(self, store: BreakerStore, name: str) -> None:
        for i in range(MAX_CODES + 3):
            await store.report(name, failed(f"E{i}"), SAMPLE, WINDOW)
        window = await store.report(name, failed("E0"), SAMPLE, WINDOW)
        assert len(window.distinct_jobs) == MAX_CODES + 1
        assert (window.distinct_jobs["E0"], window.distinct_jobs[OTHER_CODE]) == (2, 3)

    async def test_closing_forgets_all_evidence(self, store: BreakerStore, name: str) -> None:
        await store.report(name, failed("A", 5), SAMPLE, WINDOW)
        record = await self.opened(store, name)
        assert (await store.window(name, SAMPLE, WINDOW)).failures == {"A": 5}
        closed = reset(record, await store.now(), "ann", "fixed")
        assert await store.swap(name, record.generation, closed)
        window = await store.window(name, SAMPLE, WINDOW)
        assert window == Window(now=window.now, record=closed)
        after = await store.report(name, failed("A", 1, closed.generation), SAMPLE, WINDOW)
        assert (after.distinct_jobs, after.failures) == ({"A": 1}, {"A": 1})

    async def test_failures_are_listed_for_display(self, store: BreakerStore, name: str) -> None:
        quiet, other = f"{name}-quiet", f"{name}:B"
        await store.create(quiet)
        await store.report(name, failed("A", 3), SAMPLE, WINDOW)
        await store.report(other, Evidence(0, (*failed("A").outcomes, *failed("B").outcomes)), SAMPLE, WINDOW)
        listed = await store.failures([name, quiet, other, f"{name}-unknown"])
        assert listed == {name: {"A": 3}, other: {"A": 1, "B": 1}}
        assert await store.failures([]) == {}

    async def test_a_type_that_fails_opens_and_a_mixed_one_does_not(
        self, store: BreakerStore, name: str
    ) -> None:
        policy = BreakerPolicy()
        healthy = f"{name}-healthy"
        for _ in range(5):
            await store.report(healthy, succeeded(4), policy.outcomes_needed, WINDOW)
            window = await store.report(healthy, failed("A"), policy.outcomes_needed, WINDOW)
        assert decide_evidence(policy, window, 0.5) is None
        window = await store.report(name, failed("A", 10), policy.outcomes_needed, WINDOW)
        opened = decide_evidence(policy, window, 0.5)
        assert isinstance(opened, BreakerRecord)
        assert await store.swap(name, 0, opened)

    async def test_what_came_before_the_sample_is_counted_where_anything_failed(
        self, store: BreakerStore, name: str
    ) -> None:
        await store.report(name, succeeded(2 * SAMPLE), SAMPLE, WINDOW)
        window = await store.report(name, succeeded(1), SAMPLE, WINDOW)
        assert window.recent == ("",) * SAMPLE
        assert window.before == {}
        await store.report(name, failed("A", 2), SAMPLE, WINDOW)
        await store.report(name, failed("B", 1), SAMPLE, WINDOW)
        window = await store.report(name, succeeded(SAMPLE - 1), SAMPLE, WINDOW)
        assert window.recent == ("",) * (SAMPLE - 1) + ("B",)
        assert window.before == {"A": 2, "": 2 * SAMPLE + 1}
        many = outcomes_kept(SAMPLE)
        window = await store.report(name, succeeded(many - SAMPLE - 1), SAMPLE, WINDOW)
        assert window.before == {"B": 1, "A": 1, "": many - SAMPLE - 2}

    async def test_no_more_permits_than_there_are(self, store: BreakerStore, name: str) -> None:
        record = await self.opened(store, name)
        taken = await asyncio.gather(
            *(store.take_permit(name, record.generation, f"w{i}", 3, LEASE) for i in range(10))
        )
        assert taken.count(True) == 3

    async def test_a_holder_that_asks_again_has_it_still(self, store: BreakerStore, name: str) -> None:
        generation = (await self.opened(store, name)).generation
        assert await store.take_permit(name, generation, "w1", 1, LEASE)
        assert await store.take_permit(name, generation, "w1", 1, LEASE)
        assert not await store.take_permit(name, generation, "w2", 1, LEASE)

    async def test_a_returned_permit_is_free(self, store: BreakerStore, name: str) -> None:
        generation = (await self.opened(store, name)).generation
        assert await store.take_permit(name, generation, "w1", 1, LEASE)
        await store.return_permit(name, generation, "w2")
        await store.return_permit(name, generation - 1, "w1")
        assert not await store.take_permit(name, generation, "w2", 1, LEASE)
        await store.return_permit(name, generation, "w1")
        await store.return_permit(name, generation, "w1")
        assert await store.take_permit(name, generation, "w2", 1, LEASE)

    async def test_a_permit_ends_with_its_lease(self, store: BreakerStore, name: str, let_pass: Pass) -> None:
        generation = (await self.opened(store, name)).generation
        assert await store.take_permit(name, generation, "w1", 2, LEASE)
        assert await store.take_permit(name, generation, "w2", 2, timedelta(milliseconds=100))
        await let_pass(150)
        assert await store.take_permit(name, generation, "w3", 2, LEASE)
        assert not await store.take_permit(name, generation, "w4", 2, LEASE)

    async def test_permits_belong_to_one_generation(self, store: BreakerStore, name: str) -> None:
        old = await self.opened(store, name, until=1)
        assert await store.take_permit(name, old.generation, "w1", 1, LEASE)
        half_open = decide_probe_time(old, await store.now())
        assert half_open is not None
        assert await store.swap(name, old.generation, half_open)
        assert not await store.take_permit(name, old.generation, "w2", 1, LEASE)
        assert await store.take_permit(name, half_open.generation, "w2", 1, LEASE)
        assert not await store.take_permit(name, half_open.generation, "w1", 1, LEASE)
        more = replace(half_open, successes=1)
        assert await store.swap(name, half_open.generation, more)
        assert not await store.take_permit(name, half_open.generation, "w1", 1, LEASE)

    async def test_the_version_moves_with_every_create_and_swap(self, store: BreakerStore, name: str) -> None:
        versions = [await store.version()]
        await store.create(name)
        versions.append(await store.version())
        await store.create(name)
        assert await store.version() == versions[-1]
        await store.report(name, failed("A"), SAMPLE, WINDOW)
        await self.opened(store, name)
        versions.append(await store.version())
        assert len(set(versions)) == 3

    async def test_names_of_changed_breakers_are_told(self, store: BreakerStore, name: str) -> None:
        changes = store.changes()
        heard = asyncio.ensure_future(anext(changes))
        async with asyncio.timeout(10):
            while not heard.done():  # a hint may be missed before the subscription stands
                record = await self.record(store, name)
                closed = close_by_hand(record, await store.now(), None, "", "")
                assert await store.swap(name, record.generation, closed)
                await asyncio.wait({heard}, timeout=0.05)
        assert heard.result() == name

    async def test_closing_ends_the_changes(self, store: BreakerStore) -> None:
        waiting = asyncio.ensure_future(anext(store.changes(), "ended"))
        await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(5):
            assert await waiting == "ended"
        assert [name async for name in store.changes()] == []
        await store.close()

    async def test_repairing_changes_no_breaker(self, store: BreakerStore, name: str) -> None:
        record = await self.opened(store, name)
        version = await store.version()
        await store.repair([name, f"{name}-unknown"])
        await store.repair([])
        assert await store.read([name]) == {name: record}
        assert await store.version() == version

    # -- who saw it

    async def test_recent_outcomes_say_who_saw_them(self, store: BreakerStore, name: str) -> None:
        job, trace = uuid4(), "0af7651916cd43dd8448eb211c80319c"
        outcomes = (
            Outcome(uuid4(), "", "sms"),
            Outcome(job, "A", "email", trace),
            Outcome(job, "A", "email"),
        )
        await store.report(name, Evidence(0, outcomes, "host 1: é"), SAMPLE, WINDOW)
        window = await store.report(name, Evidence(0, (Outcome(uuid4(), "", "sms"),), "w2"), SAMPLE, WINDOW)
        assert window.seen == (
            Seen("", "w2", "sms"),
            Seen("A", "host 1: é", "email", job),
            Seen("A", "host 1: é", "email", job, trace),
            Seen("", "host 1: é", "sms"),
        )
        assert (window.workers, window.sources, window.ejected) == (2, 2, {})

    async def test_workers_and_sources_leave_the_window(
        self, store: BreakerStore, name: str, let_pass: Pass
    ) -> None:
        await store.report(name, Evidence(0, (Outcome(uuid4(), "", "sms"),), "w1"), SAMPLE, 900)
        await let_pass(600)
        await store.report(name, Evidence(0, (Outcome(uuid4(), "", "email"),), "w2"), SAMPLE, 900)
        await let_pass(500)
        window = await store.window(name, SAMPLE, 900)
        assert (window.workers, window.sources) == (1, 1)

    async def test_an_empty_report_makes_nobody_active(self, store: BreakerStore, name: str) -> None:
        await store.report(name, Evidence(0, (), "w1"), SAMPLE, WINDOW)
        assert (await store.window(name, SAMPLE, WINDOW)).workers == 0

    # -- ejected workers

    async def test_no_more_workers_are_ejected_than_may_be(self, store: BreakerStore, name: str) -> None:
        out = await asyncio.gather(*(store.eject(name, 0, f"w{i}", 2, LEASE) for i in range(5)))
        assert out.count(True) == 2
        window = await store.window(name, SAMPLE, WINDOW)
        assert len(window.ejected) == 2
        assert all(0 < until - window.now <= 30_000 for until in window.ejected.values())
        assert not await store.eject(f"{name}-other", 0, "w1", 0, LEASE)

    async def test_an_ejection_ends_with_its_lease(
        self, store: BreakerStore, name: str, let_pass: Pass
    ) -> None:
        assert await store.eject(name, 0, "w1", 1, timedelta(milliseconds=100))
        assert not await store.eject(name, 0, "w2", 1, LEASE)
        await let_pass(150)
        assert (await store.window(name, SAMPLE, WINDOW)).ejected == {}
        assert await store.eject(name, 0, "w2", 1, LEASE)

    async def test_who_is_ejected_again_stays_out_for_longer(self, store: BreakerStore, name: str) -> None:
        assert await store.eject(name, 0, "w1", 1, timedelta(seconds=1))
        assert await store.eject(name, 0, "w1", 1, LEASE)
        window = await store.window(name, SAMPLE, WINDOW)
        assert window.ejected["w1"] - window.now > 2_000

    async def test_an_ejection_needs_the_current_generation_and_outlives_it(
        self, store: BreakerStore, name: str
    ) -> None:
        assert not await store.eject(name, 7, "w1", 1, LEASE)
        assert await store.eject(name, 0, "w1", 1, LEASE)
        record = await self.opened(store, name)
        assert await store.swap(name, record.generation, reset(record, await store.now(), "ann", ""))
        assert list((await store.window(name, SAMPLE, WINDOW)).ejected) == ["w1"]

    async def test_a_readmitted_worker_starts_anew(self, store: BreakerStore, name: str) -> None:
        for worker in ("w 1", "w2"):
            outcomes = (Outcome(uuid4(), "A", "email"), Outcome(uuid4(), "", "email"))
            await store.report(name, Evidence(0, outcomes, worker), SAMPLE, WINDOW)
        assert await store.eject(name, 0, "w 1", 1, LEASE)
        await store.readmit(name, "w 1")
        await store.readmit(name, "unknown")
        window = await store.window(name, SAMPLE, WINDOW)
        assert window.ejected == {}
        assert {seen.worker for seen in window.seen} == {"w2"}
        assert len(window.seen) == 2
        assert await store.eject(name, 0, "w2", 1, LEASE)
