"""Both carriers of signals under one contract, and what only Redis has to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import redis

from jobkit.adapters.embedded.signals import EmbeddedSignals
from jobkit.adapters.redis.link import RedisLink
from jobkit.adapters.redis.signals import RedisSignals
from jobkit.adapters.redis.subscriber import Subscriber
from jobkit.ports import Signals
from tests.servers import NotAvailable, PrivateRedis


class Ear:
    """Keeps what it heard and lets tests wait for it."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Sequence[UUID]] = asyncio.Queue()

    def __call__(self, ids: Sequence[UUID]) -> None:
        self.heard.put_nowait(ids)

    async def ready(self, signals: Signals, channel: str) -> None:
        """Send until something arrives (a signal may be missed before the subscription stands), then
        forget what else is on its way."""
        hello, end = (uuid4(),), (uuid4(),)
        async with asyncio.timeout(15):
            while self.heard.empty():
                await signals.send(channel, hello)
                await asyncio.sleep(0.02)
            await signals.send(channel, end)
            while await self.heard.get() != end:
                pass

    async def next(self) -> Sequence[UUID]:
        async with asyncio.timeout(5):
            return await self.heard.get()


class SignalsContract:
    @pytest.fixture
    def signals(self) -> Signals:
        raise NotImplementedError

    async def test_every_listener_of_a_channel_hears(self, signals: Signals) -> None:
        one, two, ids = Ear(), Ear(), (uuid4(), uuid4())
        signals.listen("jobs", one)
        signals.listen("jobs", two)
        await one.ready(signals, "jobs")
        await two.ready(signals, "jobs")
        while not one.heard.empty():
            one.heard.get_nowait()
        await signals.send("jobs", ids)
        assert tuple(await one.next()) == ids
        assert tuple(await two.next()) == ids

    async def test_channels_do_not_meet(self, signals: Signals) -> None:
        jobs, others = Ear(), Ear()
        signals.listen("jobs", jobs)
        await jobs.ready(signals, "jobs")
        signals.listen("a:b.c", others)
        await others.ready(signals, "a:b.c")
        await signals.send("jobs", [uuid4()])
        await jobs.next()
        assert others.heard.empty()

    async def test_who_stopped_listening_hears_no_more(self, signals: Signals) -> None:
        gone, still = Ear(), Ear()
        stop = signals.listen("jobs", gone)
        signals.listen("jobs", still)
        await gone.ready(signals, "jobs")
        await still.ready(signals, "jobs")
        while not gone.heard.empty():
            gone.heard.get_nowait()
        stop()
        stop()
        await signals.send("jobs", [uuid4()])
        await still.next()
        assert gone.heard.empty()

    async def test_listening_can_begin_again(self, signals: Signals) -> None:
        ear = Ear()
        stop = signals.listen("jobs", ear)
        await ear.ready(signals, "jobs")
        stop()
        await asyncio.sleep(0.05)
        again = Ear()
        signals.listen("jobs", again)
        await again.ready(signals, "jobs")

    async def test_a_failing_listener_disturbs_nobody(self, signals: Signals) -> None:
        def fail(ids: Sequence[UUID]) -> None:
            raise ValueError

        ear = Ear()
        signals.listen("jobs", fail)
        signals.listen("jobs", ear)
        await ear.ready(signals, "jobs")

    async def test_nothing_is_sent_for_no_ids_or_nobody(self, signals: Signals) -> None:
        ear = Ear()
        signals.listen("jobs", ear)
        await ear.ready(signals, "jobs")
        await signals.send("jobs", [])
        await signals.send("nobody", [uuid4()])
        await signals.send("jobs", [last := uuid4()])
        assert tuple(await ear.next()) == (last,)

    async def test_closing_right_after_the_last_listener_left_does_not_hang(self, signals: Signals) -> None:
        ear = Ear()
        stop = signals.listen("jobs", ear)
        await ear.ready(signals, "jobs")
        stop()
        async with asyncio.timeout(5):
            await asyncio.create_task(signals.close())

    async def test_sending_after_the_close_is_silent(self, signals: Signals) -> None:
        ear = Ear()
        signals.listen("jobs", ear)
        await ear.ready(signals, "jobs")
        await signals.close()
        await signals.close()
        await signals.send("jobs", [uuid4()])
        await asyncio.sleep(0)
        assert ear.heard.empty()


class TestEmbeddedSignals(SignalsContract):
    @pytest.fixture
    def signals(self) -> EmbeddedSignals:
        return EmbeddedSignals()

    async def test_a_listener_is_never_called_from_inside_send(self, signals: EmbeddedSignals) -> None:
        ear = Ear()
        signals.listen("jobs", ear)
        await signals.send("jobs", [uuid4()])
        assert ear.heard.empty()
        await ear.next()


class TestRedisSignals(SignalsContract):
    @pytest.fixture
    async def signals(self, redis_url: str, namespace: str) -> AsyncIterator[RedisSignals]:
        signals = RedisSignals(redis_url, namespace)
        yield signals
        await signals.close()

    async def test_other_processes_hear(self, signals: RedisSignals, redis_url: str, namespace: str) -> None:
        sender, ear = RedisSignals(redis_url, namespace), Ear()
        signals.listen("jobs", ear)
        try:
            await ear.ready(sender, "jobs")
        finally:
            await sender.close()

    async def test_a_message_that_is_no_signal_is_dropped(
        self, signals: RedisSignals, redis_url: str, namespace: str
    ) -> None:
        ear = Ear()
        signals.listen("jobs", ear)
        await ear.ready(signals, "jobs")
        with redis.Redis.from_url(redis_url) as client:
            for nonsense in ("", "x", b"\xff"):
                assert client.publish(f"{namespace}:signal:jobs", nonsense) == 1
        await signals.send("jobs", [last := uuid4()])
        assert tuple(await ear.next()) == (last,)

    async def test_without_a_server_sending_is_silent_and_soon_costs_nothing(self) -> None:
        signals = RedisSignals("redis://127.0.0.1:1", "x")
        signals.listen("jobs", Ear())
        try:
            await signals.send("jobs", [uuid4()])
            start = asyncio.get_running_loop().time()
            for _ in range(100):
                await signals.send("jobs", [uuid4()])
            assert asyncio.get_running_loop().time() - start < 0.1
        finally:
            await signals.close()


@pytest.fixture
def private() -> Iterator[PrivateRedis]:
    try:
        with PrivateRedis() as server:
            yield server
    except NotAvailable as reason:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(f"no private Redis: {reason}")


class TestSubscriber:
    async def test_silence_is_noticed_and_mended(self, private: PrivateRedis) -> None:
        """A partition closes no socket: only an unanswered ping tells."""
        quick = timedelta(milliseconds=200)
        link = RedisLink(private.url, quick, quick)
        subscriber, heard = Subscriber(link, ping=0.05), asyncio.Queue[str]()
        subscriber.listen("c", heard.put_nowait)
        try:
            await self._hears(link, heard)
            await asyncio.sleep(0.2)
            assert len(await self._clients(link)) == 1, "idle, but answered pings keep the connection"
            (before,) = await self._clients(link)
            private.pause()
            await asyncio.sleep(0.3)
            private.resume()
            await self._hears(link, heard)
            assert before not in await self._clients(link)
        finally:
            await subscriber.close()
            await link.close()

    async def _clients(self, link: RedisLink) -> list[str]:
        (clients,) = await link.run([("CLIENT LIST", "TYPE", "PUBSUB")])
        return [client["id"] for client in clients]

    async def _hears(self, link: RedisLink, heard: asyncio.Queue[str]) -> None:
        while not heard.empty():
            heard.get_nowait()
        async with asyncio.timeout(15):
            while heard.empty():
                await link.run([("PUBLISH", "c", "x")])
                await asyncio.sleep(0.02)
