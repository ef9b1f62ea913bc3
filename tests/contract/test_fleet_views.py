"""Both carriers of the replicas' views under one contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import redis

from jobkit.adapters.embedded.fleet import MemoryFleetViews
from jobkit.adapters.redis import key
from jobkit.adapters.redis.fleet import RedisFleetViews
from jobkit.domain.errors import Unavailable
from jobkit.ports import FleetViews

MINUTE = timedelta(minutes=1)
ANYTHING = bytes(range(256)) * 100


class FleetViewsContract:
    @pytest.fixture
    def fleet(self) -> FleetViews:
        raise NotImplementedError

    async def test_each_replica_has_one_view(self, fleet: FleetViews) -> None:
        assert await fleet.views() == {}
        await fleet.show("a", b"1", MINUTE)
        await fleet.show("b", ANYTHING, MINUTE)
        await fleet.show("a", b"2", MINUTE)
        assert await fleet.views() == {"a": b"2", "b": ANYTHING}

    async def test_a_view_that_nobody_renews_is_gone(self, fleet: FleetViews) -> None:
        await fleet.show("gone", b"1", timedelta(milliseconds=30))
        await fleet.show("here", b"2", MINUTE)
        async with asyncio.timeout(5):
            while "gone" in await fleet.views():
                await asyncio.sleep(0.01)
        assert await fleet.views() == {"here": b"2"}

    async def test_a_replica_that_leaves_is_gone_at_once(self, fleet: FleetViews) -> None:
        await fleet.show("a", b"1", MINUTE)
        for _ in range(2):
            await fleet.leave("a")
            assert await fleet.views() == {}

    async def test_closing_may_be_repeated(self, fleet: FleetViews) -> None:
        await fleet.close()
        await fleet.close()


class TestMemoryFleetViews(FleetViewsContract):
    @pytest.fixture
    def fleet(self) -> MemoryFleetViews:
        return MemoryFleetViews()


class TestRedisFleetViews(FleetViewsContract):
    @pytest.fixture
    async def fleet(self, redis_url: str, namespace: str) -> AsyncIterator[RedisFleetViews]:
        fleet = RedisFleetViews(redis_url, namespace)
        yield fleet
        await fleet.close()

    async def test_somebodys_keys_hide_nothing(
        self, fleet: RedisFleetViews, redis_url: str, namespace: str
    ) -> None:
        await fleet.show("a", b"1", MINUTE)
        await fleet.show("b", b"2", MINUTE)
        with redis.Redis.from_url(redis_url) as client:
            client.set(key.fleet_view(namespace, "a"), "no view of ours")
            assert await fleet.views() == {"b": b"2"}
            client.set(key.fleet(namespace), "no set")
            assert await fleet.views() == {}

    async def test_names_of_replicas_that_died_are_cleared_away(
        self, fleet: RedisFleetViews, redis_url: str, namespace: str
    ) -> None:
        await fleet.show("dead", b"1", timedelta(milliseconds=5))
        await asyncio.sleep(0.05)
        await fleet.show("a", b"1", MINUTE)
        with redis.Redis.from_url(redis_url) as client:
            assert client.zrange(key.fleet(namespace), 0, -1) == [b"a"]

    async def test_redis_away_is_told(self, namespace: str) -> None:
        fleet = RedisFleetViews("redis://127.0.0.1:1", namespace)
        for call in (fleet.show("a", b"", MINUTE), fleet.views(), fleet.leave("a")):
            with pytest.raises(Unavailable):
                await call
        await fleet.close()
