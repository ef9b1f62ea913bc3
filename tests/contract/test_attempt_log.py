"""The attempt log: as both breaker stores write it, and where it stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from jobkit.adapters import tape
from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.adapters.sql.attempts import SqlAttemptLog
from jobkit.domain.attempts import Logged, Moved, Raw, Readmitted
from jobkit.domain.breaker import BreakerRecord, BreakerState, Evidence, Outcome
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
        assert await log.weigh("unknown", 0, 60) == 0
        assert (await log.oldest("email"), await log.oldest("unknown")) == (10, None)

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
