"""The attempt log: as both breaker stores write it, and where it stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from jobkit.adapters import tape
from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.adapters.sql.attempts import SqlAttemptLog
from jobkit.domain.attempts import FIRST, FLOORS, Gap, Logged, Moved, Raw, Readmitted
from jobkit.domain.breaker import NOBODY, SLOW_CALL, BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.tripping import decide_probe_time, open_by_hand
from jobkit.ports import BreakerStore
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_job

SAMPLE, WINDOW = 50, 60_000


async def entries(store: BreakerStore, name: str) -> list[Logged]:
    return list(tape.read(name, await store.log(name, 1000)))


class WrittenContract:
    @pytest.fixture
    def store(self) -> BreakerStore:
        raise NotImplementedError

    @pytest.fixture
    def name(self) -> str:
        raise NotImplementedError

    async def test_what_was_taken_in_is_in_the_log_in_order(self, store: BreakerStore, name: str) -> None:
        job = uuid4()
        outcomes = (Outcome(uuid4(), "", "email"), Outcome(uuid4(), "", "email"), Outcome(job, "A", "mail"))
        seen = await store.report(name, Evidence(0, outcomes, "w 1", 0.25, trial=True), SAMPLE, WINDOW)
        opened = open_by_hand(BreakerRecord(name), await store.now(), None, "ann", "why")
        assert await store.swap(name, 0, opened)
        await store.readmit(name, "w 1")
        report, swap, back = await entries(store, name)
        assert report.at == seen.now
        assert report.position < swap.position < back.position
        assert isinstance(report.what, Evidence)
        assert [(o.code, o.source) for o in report.what.outcomes] == [
            ("", "email"),
            ("", "email"),
            ("A", "mail"),
        ]
        assert report.what.outcomes[2].job_id == job
        told = report.what
        assert (told.generation, told.worker, told.fraction, told.trial) == (0, "w 1", 0.25, True)
        assert swap.what == Moved(opened, 0)
        assert back.what == Readmitted("w 1")

    async def test_how_long_attempts_took_and_what_they_ended_in_is_in_it(
        self, store: BreakerStore, name: str
    ) -> None:
        slow = Outcome(uuid4(), SLOW_CALL, "x", took=900, slow=True)
        failed = Outcome(uuid4(), "A", "x", took=123_456)
        ignored = Outcome(uuid4(), "B", "x", took=7, ignored=True)
        # By chance these are durations that rounding leaves as they are.
        good = [Outcome(NOBODY, "", "x", took=FLOORS[index]) for index in (0, 1, 60, 300, len(FLOORS) - 1)]
        told = (*good, ignored, slow, failed, ignored)
        window = await store.report(name, Evidence(0, told, "w"), SAMPLE, WINDOW)
        assert window.recent == ("A", SLOW_CALL, *[""] * 5)
        assert window.failures == {"A": 1, SLOW_CALL: 1}
        (entry,) = await entries(store, name)
        assert entry.what == Evidence(0, told, "w")

    async def test_what_is_ignored_is_no_evidence_of_a_worker_either(
        self, store: BreakerStore, name: str
    ) -> None:
        ignored = Outcome(uuid4(), "B", "x", took=7, ignored=True)
        window = await store.report(name, Evidence(0, (ignored,), "w"), SAMPLE, WINDOW)
        assert (window.workers, window.sources, window.seen, window.failures) == (0, 0, (), {})
        assert await store.failures([name]) == {}
        (entry,) = await entries(store, name)
        assert entry.what == Evidence(0, (ignored,), "w")

    async def test_a_probe_and_a_trial_come_with_what_they_led_to(
        self, store: BreakerStore, name: str
    ) -> None:
        probe = Outcome(uuid4(), SLOW_CALL, "x", took=900, slow=True)
        trial = Outcome(NOBODY, "", "x", took=10)
        opened = open_by_hand(BreakerRecord(name), await store.now(), None, "ann", "why")
        assert await store.swap(name, 0, opened, probe)
        await store.readmit(name, "w 1", trial)
        swap, back = await entries(store, name)
        assert (swap.what, back.what) == (Moved(opened, 0, probe), Readmitted("w 1", trial))

    async def test_each_entry_tells_which_one_was_before_it(self, store: BreakerStore, name: str) -> None:
        async def report() -> None:
            await store.report(name, Evidence(0, (Outcome(uuid4(), "", "x"),), "w"), SAMPLE, WINDOW)

        for _ in range(3):
            await report()
        first, second, third = await store.log(name, 1000)
        assert (first.after, second.after, third.after) == (FIRST, first.position, second.position)
        await store.forget_log(name, third.position)
        await store.readmit(name, "w")
        (fourth,) = await store.log(name, 1000)
        assert fourth.after == third.position

    async def test_what_was_dropped_leaves_a_gap(
        self, store: BreakerStore, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("redis", "embedded"):
            monkeypatch.setattr(f"jobkit.adapters.{module}.breakers.LOG_KEPT", 10)
        await store.readmit(name, "w")
        (taken,) = await store.log(name, 10)
        for _ in range(300):  # Redis trims by whole nodes of a hundred
            await store.readmit(name, "w")
        oldest = (await store.log(name, 1000))[0]
        assert oldest.after is not None
        assert oldest.after > taken.position

    async def test_what_was_refused_is_not(self, store: BreakerStore, name: str) -> None:
        opened = open_by_hand(BreakerRecord(name), await store.now(), None, "", "")
        assert await store.swap(name, 0, opened)
        await store.report(name, Evidence(0, (Outcome(uuid4(), "A", "x"),), "w"), SAMPLE, WINDOW)
        assert not await store.swap(name, 0, open_by_hand(opened, await store.now(), None, "", ""))
        await store.window(name, SAMPLE, WINDOW)
        await store.create(name)
        assert [type(entry.what) for entry in await entries(store, name)] == [Moved]

    async def test_only_the_newest_transition_is_kept_without_its_proof(
        self, store: BreakerStore, name: str
    ) -> None:
        now = await store.now()
        opened = open_by_hand(BreakerRecord(name), now, now, "", "")
        half_open = decide_probe_time(opened, now)
        assert half_open is not None
        assert await store.swap(name, 0, half_open)
        (entry,) = await entries(store, name)
        assert isinstance(entry.what, Moved)
        assert [move.to_state for move in entry.what.record.transitions] == [BreakerState.HALF_OPEN]

    async def test_it_is_read_from_its_beginning_until_it_is_forgotten(
        self, store: BreakerStore, name: str
    ) -> None:
        for _ in range(5):
            await store.report(name, Evidence(0, (Outcome(uuid4(), "", "x"),), "w"), SAMPLE, WINDOW)
        first = await store.log(name, 2)
        assert first == (await store.log(name, 1000))[:2]
        await store.forget_log(name, first[-1].position)
        left = await store.log(name, 1000)
        assert len(left) == 3
        assert left[0].position > first[-1].position
        await store.forget_log(name, left[-1].position)
        assert await store.log(name, 1000) == []
        await store.forget_log("unknown", (1, 1))


class TestMemory(WrittenContract):
    @pytest.fixture
    def store(self) -> BreakerStore:
        return MemoryBreakerStore()

    @pytest.fixture
    def name(self) -> str:
        return "a.b:c"


class TestRedis(WrittenContract):
    @pytest.fixture
    async def store(self, redis_url: str, namespace: str) -> AsyncIterator[BreakerStore]:  # type: ignore[override]
        store = RedisBreakerStore(redis_url, namespace)
        yield store
        await store.close()

    @pytest.fixture
    def name(self, namespace: str) -> str:
        return f"{namespace}.a:c"


def raws(*times: int) -> list[Raw]:
    """Reports of one success and one failure each."""
    text = tape.of_report(Evidence(0, (Outcome(uuid4(), "", "x"), Outcome(uuid4(), "A", "x")), "w"))
    return [Raw((at, number), at, text) for number, at in enumerate(times)]


class KeptContract(StoreContract):
    @pytest.fixture
    def log(self, store: Store) -> SqlAttemptLog:
        return SqlAttemptLog(store.database)

    async def test_a_range_is_read_across_batches(self, log: SqlAttemptLog) -> None:
        for batch in (raws(10, 20, 30), raws(40, 50), raws(60)):
            assert await log.put("email", batch) == batch[-1].position
        await log.put("other", raws(35))
        assert [entry.at for entry in await log.read("email", 20, 50)] == [20, 30, 40, 50]
        assert [entry.at for entry in await log.read("email", 31, 39)] == []
        assert await log.read("unknown", 0, 100) == []
        assert await log.weigh("email", 40, 60) == 9
        assert await log.gaps("email", 0, 100) == []
        assert await log.weigh("unknown", 0, 60) == 0
        assert (await log.oldest("email"), await log.oldest("unknown")) == (10, None)

    async def test_what_the_store_dropped_is_a_gap(self, log: SqlAttemptLog) -> None:
        for at, after in ((10, None), (20, (10, 0)), (40, (35, 0)), (60, (40, 0)), (80, FIRST)):
            (raw,) = raws(at)
            await log.put("email", [replace(raw, after=after)])
        assert await log.gaps("email", 0, 100) == [Gap(20, 40), Gap(60, 80)]
        assert await log.gaps("email", 15, 35) == [Gap(20, 40)]  # told by an entry after it
        assert await log.gaps("email", 25, 30) == [Gap(20, 40)]
        assert await log.gaps("email", 40, 59) == []
        assert await log.gaps("email", 80, 100) == []
        assert await log.gaps("unknown", 0, 100) == []

    async def test_a_batch_is_kept_once_and_says_how_far_it_goes(self, log: SqlAttemptLog) -> None:
        batch = raws(10, 20, 30)
        assert await log.put("email", batch[:2]) == batch[1].position
        assert await log.put("email", batch) == batch[1].position
        assert [entry.at for entry in await log.read("email", 0, 100)] == [10, 20]
        # Taken by two at once, after the store had lost the first of them.
        await log.put("email", batch[1:])
        assert [entry.at for entry in await log.read("email", 0, 100)] == [10, 20, 30]

    async def test_what_cannot_be_read_is_left_out(self, log: SqlAttemptLog) -> None:
        strange = [
            Raw((5, n), 5, text) for n, text in enumerate(("", "[]", '["r"]', '["z",1]', '["m",0,{}]', "7"))
        ]
        await log.put("email", [*strange, *raws(10)])
        assert [entry.at for entry in await log.read("email", 0, 100)] == [10]

    async def test_old_batches_leave_a_few_at_a_time(self, log: SqlAttemptLog, store: Store) -> None:
        now = await store.database.now()
        for at in (1, 2, 3):
            await log.put("email", raws(at))
        await log.put("email", raws(now))
        assert await log.purge(60_000, 2) == 2
        assert await log.purge(60_000, 2) == 1
        assert await log.purge(60_000, 2) == 0
        assert await log.oldest("email") == now

    async def test_the_ledger_tells_how_a_breaker_stood(self, log: SqlAttemptLog, store: Store) -> None:
        assert await log.standing("email", 10**14) is None
        opened = open_by_hand(BreakerRecord("email"), 1_000, 2_000, "ann", "")
        half_open = decide_probe_time(opened, 2_500)
        assert half_open is not None
        for record in (opened, half_open):
            await store.ledger.record(record)
        assert await log.standing("email", 999) is None
        then = await log.standing("email", 2_400)
        assert then is not None
        assert (then.state, then.generation, then.open_until) == (BreakerState.OPEN, opened.generation, 2_000)
        later = await log.standing("email", 2_500)
        assert later is not None
        assert later.state is BreakerState.HALF_OPEN

    async def test_jobs_are_counted_by_the_second(self, log: SqlAttemptLog, store: Store) -> None:
        batch = [new_job() for _ in range(3)]
        await store.insert([*batch, new_job("other")])
        at = batch[0].job_id.int >> 80
        found = await log.arrivals("email", at, at + 60_000, 100)
        assert sum(arrivals.jobs for arrivals in found) == 3
        assert found[0].at == at - at % 1000
        assert sum(arrivals.jobs for arrivals in await log.arrivals("email", at, at + 60_000, 2)) == 2
        assert await log.arrivals("email", at - 60_000, at, 100) == []
        await store.types.need({"email": ["smtp"]})
        behind = await log.arrivals("@smtp", at, at + 60_000, 100)
        assert sum(arrivals.jobs for arrivals in behind) == 3


class TestOnSqlite(KeptContract, OnSqlite):
    pass


class TestOnPostgres(KeptContract, OnPostgres):
    pass
