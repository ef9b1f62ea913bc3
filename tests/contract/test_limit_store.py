"""`LimitStore`, embedded and on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
import redis

from jobkit.adapters.embedded.limits import MemoryLimitStore
from jobkit.adapters.redis.limits import RedisLimitStore, _pace_of
from jobkit.domain.budget import Statement
from jobkit.domain.errors import Unavailable
from jobkit.domain.pace import Pace
from jobkit.ports import LimitStore
from tests.contract.limit_store_contract import LimitStoreContract, report
from worker.exchange import exchange


class TestMemoryLimitStore(LimitStoreContract):
    @pytest.fixture
    def store(self) -> LimitStore:
        self.now = 1_000_000
        return MemoryLimitStore(lambda: self.now)

    async def wait(self, milliseconds: int) -> None:
        self.now += milliseconds


@pytest.mark.redis
class TestRedisLimitStore(LimitStoreContract):
    @pytest.fixture
    async def store(self, redis_url: str, namespace: str) -> AsyncIterator[LimitStore]:
        store = RedisLimitStore(redis_url, namespace)
        yield store
        await store.close()

    @pytest.fixture
    def raw(self, redis_url: str) -> Iterator[redis.Redis[str]]:
        client: redis.Redis[str] = redis.Redis.from_url(redis_url, decode_responses=True)
        yield client
        client.close()

    async def wait(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def test_its_keys_lie_in_one_slot_and_go_by_themselves(
        self, store: LimitStore, raw: redis.Redis[str], name: str, namespace: str
    ) -> None:
        await exchange(store, "a", {name: report(limit=3, revision=1)})
        await store.spend({name: Statement(1, 1, 1)})
        for key in (f"{namespace}:{{{name}}}:slots", f"{namespace}:{{{name}}}:budget"):
            assert 0 < raw.pttl(key) <= 86_400_000

    async def test_a_wiped_server_begins_anew(
        self, store: LimitStore, raw: redis.Redis[str], name: str, namespace: str
    ) -> None:
        await exchange(store, "a", {name: report(limit=3, revision=1)})
        raw.delete(f"{namespace}:{{{name}}}:slots")
        raw.script_flush()
        found = await exchange(store, "a", {name: report(limit=3, revision=1)})
        assert found[name] is not None
        assert found[name].slots == 3  # type: ignore[union-attr]

    async def test_a_key_of_a_foreign_type_is_replaced(
        self, store: LimitStore, raw: redis.Redis[str], name: str, namespace: str
    ) -> None:
        raw.set(f"{namespace}:{{{name}}}:slots", "nonsense", px=60_000)
        assert (await exchange(store, "a", {name: report(limit=3, revision=1)}))[name] is not None

    async def test_no_server_is_unavailable(self, name: str, unused_tcp_port: int) -> None:
        store = RedisLimitStore(f"redis://127.0.0.1:{unused_tcp_port}", "x")
        try:
            with pytest.raises(Unavailable):
                await store.report("a", {name: report()})
            with pytest.raises(Unavailable):
                await store.spend({name: Statement(1, 1)})
        finally:
            await store.close()


def test_a_pace_comes_back_as_it_was_whatever_else_is_in_it() -> None:
    pace = Pace(7, rate=12.5, ceiling=14.0, cut_share=0.3, trial=(9, 3))
    stored = orjson.loads(orjson.dumps(pace))
    assert _pace_of(stored) == pace
    assert _pace_of(stored | {"of_another_release": True}) == pace
    assert _pace_of({"generation": 7}) == Pace(7)
