"""Both breaker stores under one contract, and what only Redis has to do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
import redis

from jobkit.adapters.embedded.breakers import MemoryBreakerStore, steady_clock
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.adapters.redis.key import BreakerKeys, changes
from jobkit.adapters.redis.link import RedisLink
from jobkit.adapters.redis.script import Script
from jobkit.domain.breaker import BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.errors import Unavailable
from jobkit.domain.tripping import close_by_hand, decide_probe_time, open_by_hand, reset
from tests.contract.breaker_store_contract import (
    LEASE,
    SAMPLE,
    WINDOW,
    BreakerStoreContract,
    Pass,
    failed,
    succeeded,
)
from tests.servers import NotAvailable, PrivateRedis


class TestMemoryBreakerStore(BreakerStoreContract):
    @pytest.fixture
    def clock(self) -> list[int]:
        return [1_700_000_000_000]

    @pytest.fixture
    def store(self, clock: list[int]) -> MemoryBreakerStore:
        return MemoryBreakerStore(lambda: clock[0])

    @pytest.fixture
    def name(self) -> str:
        return "a.b_c-d:e"

    @pytest.fixture
    def let_pass(self, clock: list[int]) -> Pass:
        async def let_pass(milliseconds: int) -> None:
            clock[0] += milliseconds

        return let_pass

    async def test_the_clock_of_its_own_gives_milliseconds_since_the_epoch(self) -> None:
        clock = steady_clock()
        first = clock()
        assert 1_600_000_000_000 < first <= clock()


@pytest.fixture
async def redis_store(redis_url: str, namespace: str) -> AsyncIterator[RedisBreakerStore]:
    store = RedisBreakerStore(redis_url, namespace)
    yield store
    await store.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis[str]]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


class TestRedisBreakerStore(BreakerStoreContract):
    @pytest.fixture
    def store(self, redis_store: RedisBreakerStore) -> RedisBreakerStore:
        return redis_store

    @pytest.fixture
    def name(self, namespace: str) -> str:
        return f"{namespace}.b_c-d:e"

    @pytest.fixture
    def let_pass(self) -> Pass:
        async def let_pass(milliseconds: int) -> None:
            await asyncio.sleep(milliseconds / 1000 + 0.005)

        return let_pass


class TestOperatorKeys:
    @pytest.fixture
    def name(self, namespace: str) -> str:
        return f"{namespace}:email"

    async def test_a_breaker_is_shown_as_json(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], name: str
    ) -> None:
        key = f"breaker:{name}"
        await redis_store.create(name)
        assert json.loads(raw.get(key) or "") == {"state": "CLOSED"}
        now = await redis_store.now()
        opened = open_by_hand(BreakerRecord(name), now, now, "", "")
        assert await redis_store.swap(name, 0, opened)
        assert json.loads(raw.get(key) or "") == {"state": "OPEN", "openedAt": now, "openUntil": now}
        half_open = decide_probe_time(opened, now)
        assert half_open is not None
        assert await redis_store.swap(name, opened.generation, half_open)
        shown = json.loads(raw.get(key) or "")
        assert (shown["state"], shown["openedAt"]) == ("HALF_OPEN", now)
        closed = reset(half_open, now, "", "")
        assert await redis_store.swap(name, half_open.generation, closed)
        assert raw.get(key) == '{"state":"CLOSED"}'
        assert raw.ttl(key) == -1

    async def test_failures_are_integers_that_expire_and_go_when_it_closes(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], name: str
    ) -> None:
        job = uuid4()
        pairs = ((job, "API_TIMEOUT"), (job, "API_TIMEOUT"), (uuid4(), "X"))
        both = Evidence(0, tuple(Outcome(*pair) for pair in pairs))
        await redis_store.report(name, both, SAMPLE, WINDOW)
        await redis_store.report(name, succeeded(), SAMPLE, WINDOW)
        keys = [f"failure:{name}:API_TIMEOUT", f"failure:{name}:X"]
        assert raw.mget(keys) == ["2", "1"]
        assert all(0 < raw.pttl(key) <= WINDOW for key in keys)
        now = await redis_store.now()
        opened = open_by_hand(BreakerRecord(name), now, None, "", "")
        assert await redis_store.swap(name, 0, opened)
        assert raw.mget(keys) == ["2", "1"]
        assert await redis_store.swap(name, opened.generation, close_by_hand(opened, now, None, "", ""))
        assert raw.exists(*keys) == 0

    async def test_dropped_evidence_leaves_no_count(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], name: str
    ) -> None:
        await redis_store.report(name, failed("X", generation=7), SAMPLE, WINDOW)
        assert raw.exists(f"failure:{name}:X") == 0

    async def test_a_lost_swap_writes_no_copy(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], name: str
    ) -> None:
        assert not await redis_store.swap(name, 5, open_by_hand(BreakerRecord(name), 1, None, "", ""))
        assert raw.exists(f"breaker:{name}") == 0

    async def test_repair_writes_what_is_missing_or_wrong(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], name: str
    ) -> None:
        await redis_store.create(name)
        await redis_store.report(name, failed("X", 3), SAMPLE, WINDOW)
        raw.set(f"breaker:{name}", "nonsense")
        raw.delete(f"failure:{name}:X")
        await redis_store.repair([name])
        assert raw.get(f"breaker:{name}") == '{"state":"CLOSED"}'
        assert raw.get(f"failure:{name}:X") == "3"
        assert WINDOW - 5_000 < raw.pttl(f"failure:{name}:X") <= WINDOW + WINDOW // 30


class TestKeys:
    async def test_all_keys_of_a_breaker_share_a_slot_and_evidence_expires(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], namespace: str
    ) -> None:
        name = f"{namespace}:a.b"
        opened = open_by_hand(BreakerRecord(name), await redis_store.now(), None, "", "")
        assert await redis_store.swap(name, 0, opened)
        assert await redis_store.take_permit(name, opened.generation, "w", 1, LEASE)
        await redis_store.report(name, failed("X", 1, opened.generation), SAMPLE, WINDOW)
        assert await redis_store.eject(name, opened.generation, "w", 1, LEASE)
        found = set(raw.scan_iter(match=f"{namespace}:*", count=1000))
        prefix = f"{namespace}:{{{name}}}:"
        evidence = ("recent", "codes", "counts", "jobs:X", "workers", "sources")
        ours = {f"{prefix}{key}" for key in ("record", "permits", "ejected", "log", *evidence)}
        assert found == ours | {changes(namespace)}
        slots = {raw.execute_command("CLUSTER KEYSLOT", key) for key in ours} if _slots(raw) else {0}
        assert len(slots) == 1
        assert all(raw.pttl(key) > 0 for key in ours - {f"{prefix}record"})

    async def test_two_namespaces_do_not_meet(
        self, redis_store: RedisBreakerStore, redis_url: str, namespace: str
    ) -> None:
        await redis_store.create(f"{namespace}-x")
        other = RedisBreakerStore(redis_url, f"{namespace}2")
        try:
            assert await other.read([f"{namespace}-x"]) == {}
            assert await other.version() == 0
        finally:
            await other.close()


def _slots(raw: redis.Redis[str]) -> bool:
    """CLUSTER KEYSLOT is refused by a server without cluster support."""
    try:
        raw.execute_command("CLUSTER KEYSLOT", "x")
    except redis.ResponseError:
        return False
    return True


class TestCorruption:
    WRONG = ("", "nonsense", "[]", "7", '{"state":"ODD","generation":1}', '{"state":"OPEN"}',
             '{"state":"OPEN","generation":"9"}', '{"state":"OPEN","generation":-1}',
             '{"state":"OPEN","generation":true}', '{"state":["OPEN"],"generation":1}',
             b"\xff\xfe")  # fmt: skip

    @pytest.mark.parametrize("value", WRONG)
    async def test_a_corrupt_record_counts_as_absent_and_hides_no_other(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], namespace: str, value: str | bytes
    ) -> None:
        good, bad = f"{namespace}-good", f"{namespace}-bad"
        await redis_store.create(good)
        raw.set(BreakerKeys.of(namespace, bad).record, value)
        assert await redis_store.read([bad, good]) == {good: BreakerRecord(good)}
        window = await redis_store.report(bad, failed("X"), SAMPLE, WINDOW)
        assert (window.record, window.failures) == (BreakerRecord(bad), {"X": 1})
        await redis_store.repair([bad, good])
        await redis_store.create(bad)
        assert set(await redis_store.read([bad, good])) == {good, bad}

    async def test_foreign_types_under_our_keys_are_replaced(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], namespace: str
    ) -> None:
        name = f"{namespace}-bad"
        keys = BreakerKeys.of(namespace, name)
        for key in (keys.record, keys.codes, keys.permits):
            raw.rpush(key, "x")
        for key in (keys.recent, keys.counts, f"{keys.jobs}X"):
            raw.set(key, "x")
        assert await redis_store.read([name]) == {}
        assert await redis_store.failures([name]) == {}
        await redis_store.repair([name])
        assert (await redis_store.report(name, failed("X"), SAMPLE, WINDOW)).distinct_jobs == {"X": 1}
        assert await redis_store.take_permit(name, 0, "w", 1, LEASE)
        opened = open_by_hand(BreakerRecord(name), await redis_store.now(), None, "", "")
        assert await redis_store.swap(name, 0, opened)
        assert await redis_store.read([name]) == {name: opened}

    async def test_nonsense_within_the_evidence_is_skipped(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], namespace: str
    ) -> None:
        name = f"{namespace}-bad"
        keys = BreakerKeys.of(namespace, name)
        raw.rpush(keys.recent, "nonsense")
        raw.hset(keys.counts, mapping={"nonsense": "x", "X|y": "1 1", "X|9": "many"})
        window = await redis_store.report(name, failed("X"), SAMPLE, WINDOW)
        assert (window.recent, window.failures) == (("X",), {"X": 1})
        assert await redis_store.failures([name]) == {name: {"X": 1}}

    async def test_an_open_breaker_whose_end_is_unreadable_is_probed(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], namespace: str
    ) -> None:
        name = f"{namespace}-bad"
        value = '{"state":"OPEN","generation":5,"open_until":"soon","transitions":[7,{}],"successes":"x"}'
        raw.set(BreakerKeys.of(namespace, name).record, value)
        record = (await redis_store.read([name]))[name]
        half_open = decide_probe_time(record, await redis_store.now())
        assert half_open is not None
        assert await redis_store.swap(name, 5, half_open)


class TestTheServer:
    async def test_a_script_the_server_does_not_know_is_loaded(self, redis_url: str, namespace: str) -> None:
        link = RedisLink(redis_url)
        unknown = Script.of(f"return {{KEYS[1], ARGV[1]}} -- {uuid4()}")
        try:
            for _ in range(2):
                assert await link.script(unknown, (namespace,), ("x",), [("PING",)]) == [namespace, "x"]
        finally:
            await link.close()

    async def test_a_failing_script_is_no_driver_error(self, redis_url: str) -> None:
        link = RedisLink(redis_url)
        try:
            with pytest.raises(Unavailable, match="redis"):
                await link.script(Script.of("return redis.call('NONE')"), (), ())
        finally:
            await link.close()

    async def test_after_a_wipe_a_generation_is_greater_than_before(
        self, redis_store: RedisBreakerStore, raw: redis.Redis[str], namespace: str
    ) -> None:
        name = f"{namespace}-x"
        before = open_by_hand(BreakerRecord(name), await redis_store.now(), None, "", "")
        assert await redis_store.swap(name, 0, before)
        raw.delete(*raw.scan_iter(match=f"{namespace}:*", count=1000))
        assert await redis_store.read([name]) == {}
        assert not await redis_store.swap(name, before.generation, reset(before, before.generation, "", ""))
        await redis_store.report(name, failed("X", 9, before.generation), SAMPLE, WINDOW)
        assert (await redis_store.window(name, SAMPLE, WINDOW)).recent == ()
        await redis_store.create(name)
        await asyncio.sleep(0.002)
        after = open_by_hand(BreakerRecord(name), await redis_store.now(), None, "", "")
        assert await redis_store.swap(name, 0, after)
        assert after.generation > before.generation

    async def test_no_server_is_told_in_our_own_words(self) -> None:
        store = RedisBreakerStore("redis://127.0.0.1:1", "x")
        try:
            for call in (
                store.now(), store.read(["x"]), store.create("x"), store.version(), store.failures(["x"]),
                store.window("x", 1, 1), store.report("x", failed("X"), 1, 1), store.repair(["x"]),
                store.swap("x", 0, BreakerRecord("x", BreakerState.OPEN, 1)),
                store.take_permit("x", 0, "w", 1, LEASE), store.return_permit("x", 0, "w"),
            ):  # fmt: skip
                with pytest.raises(Unavailable) as told:
                    await call
                assert told.value.reason == "REDIS_UNAVAILABLE"
        finally:
            await store.close()


@pytest.fixture
def private() -> Iterator[PrivateRedis]:
    server = PrivateRedis()
    try:
        server.start()
    except NotAvailable as reason:
        server.remove()
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(f"no private Redis: {reason}")
    yield server
    server.remove()


class TestFaults:
    async def test_a_frozen_server_is_given_up_in_time_and_found_again(self, private: PrivateRedis) -> None:
        quick = timedelta(milliseconds=200)
        store = RedisBreakerStore(private.url, "t", quick, quick)
        loop = asyncio.get_running_loop()
        try:
            await store.create("x")
            private.pause()
            start = loop.time()
            answers = await asyncio.gather(*(store.now() for _ in range(20)), return_exceptions=True)
            assert all(isinstance(answer, Unavailable) for answer in answers)
            assert loop.time() - start < 1.0
            private.resume()
            assert set(await store.read(["x"])) == {"x"}
        finally:
            await store.close()

    async def test_changes_survive_a_restart_of_the_server(self, private: PrivateRedis) -> None:
        store = RedisBreakerStore(private.url, "t")
        changed = store.changes()
        try:
            await self._heard(store, changed)
            private.kill()
            with pytest.raises(Unavailable):
                await store.now()
            private.start()
            await self._heard(store, changed)
            assert (await store.read(["x"]))["x"].state is BreakerState.CLOSED
        finally:
            await store.close()

    async def _heard(self, store: RedisBreakerStore, changed: AsyncIterator[str]) -> None:
        heard = asyncio.ensure_future(anext(changed))
        async with asyncio.timeout(15):
            while not heard.done():
                record = (await store.read(["x"])).get("x") or BreakerRecord("x")
                assert await store.swap("x", record.generation, reset(record, await store.now(), "", ""))
                await asyncio.wait({heard}, timeout=0.05)
        assert heard.result() == "x"
