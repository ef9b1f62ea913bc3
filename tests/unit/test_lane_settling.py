"""What a lane settles reaches the broker in an order that settles nothing else, however full the way there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobkit.adapters.rabbitmq import wire
from jobkit.adapters.rabbitmq.frames import Arrived
from jobkit.adapters.rabbitmq.header import Properties
from jobkit.adapters.rabbitmq.lane import RabbitDelivery, RabbitLane, _Session

BACK = wire._NACK


class Channel:
    """Shares a queue of writes with others that keep it full."""

    is_closed = False
    number = 1

    def __init__(self, writes: asyncio.Queue[Any]) -> None:
        self.write_queue = writes


class Link:
    @contextmanager
    def calls(self) -> Iterator[None]:
        yield


class Broker:
    """Closes the channel for a tag that it does not know, as RabbitMQ does."""

    def __init__(self, tags: int) -> None:
        self.unsettled = set(range(1, tags + 1))
        self.done: set[int] = set()
        self.again: set[int] = set()

    def read(self, payload: bytes) -> None:
        for _, _, _, _, method, tag, flags, _ in wire._SETTLE.iter_unpack(payload):
            if method == BACK:
                self._settle({tag}, self.again)
            else:
                self._settle({t for t in self.unsettled if t <= tag} if flags else {tag}, self.done)

    def _settle(self, tags: set[int], where: set[int]) -> None:
        assert tags, "nothing to acknowledge"
        assert tags <= self.unsettled, f"unknown delivery tag {tags - self.unsettled}"
        self.unsettled -= tags
        where |= tags


class Scene:
    """A lane with `tags` deliveries in hand, whose writes wait for those of others."""

    def __init__(self, tags: int) -> None:
        self.writes: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        self.writes.put_nowait(None)
        self.broker = Broker(tags)
        anything: Any = Link()
        self.lane = RabbitLane(
            "email", print, link=anything, publisher=anything, timeout=60.0, turn=asyncio.Semaphore()
        )
        channel: Any = Channel(self.writes)
        session = self.lane._session = _Session(channel)
        session.settles = wire._Joined(channel)
        self.deliveries = [self._delivery(session, tag) for tag in range(1, tags + 1)]

    def _delivery(self, session: _Session, tag: int) -> RabbitDelivery:
        session.unsettled.came(tag)
        session.in_hand += 1
        return RabbitDelivery(session, Arrived("c", tag, False, Properties(0, "", {}), b""), None)

    def write_one(self) -> None:
        if not self.writes.empty():
            frame = self.writes.get_nowait()
            if frame is not None:
                self.broker.read(frame.payload)

    async def write_all(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)
            self.write_one()

    async def overtake(self, later: list[RabbitDelivery]) -> None:
        """What came before waits for room; as there is some, these are acknowledged."""
        for _ in range(3):
            await asyncio.sleep(0)
        await self.lane.ack(later)
        await asyncio.sleep(0)
        self.write_one()
        await self.write_all()


async def test_one_frame_for_many_does_not_overtake_what_it_would_settle() -> None:
    scene = Scene(3)
    await scene.lane.ack(scene.deliveries[:1])
    await scene.overtake(scene.deliveries[1:])
    assert scene.broker.done == {1, 2, 3}


async def test_one_frame_for_many_does_not_acknowledge_what_was_given_back_before() -> None:
    scene = Scene(3)
    back = asyncio.create_task(scene.lane.give_back(scene.deliveries[:1]))
    await scene.overtake(scene.deliveries[1:])
    await back
    assert (scene.broker.done, scene.broker.again) == ({2, 3}, {1})


@pytest.mark.parametrize("seed", range(50))
async def test_every_delivery_gets_what_was_said_of_it(seed: int) -> None:
    chance = random.Random(seed)
    scene = Scene(40)
    wanted: tuple[set[int], set[int]] = (set(), set())
    left = chance.sample(scene.deliveries, len(scene.deliveries))
    tasks = []
    while left:
        match chance.choice(("ack", "back", "turn", "turn", "write")):
            case "turn":
                await asyncio.sleep(0)
            case "write":
                scene.write_one()
            case what:
                some = [left.pop() for _ in range(min(len(left), chance.randint(1, 4)))]
                wanted[what == "back"].update(delivery.tag for delivery in some)
                settle = scene.lane.ack if what == "ack" else scene.lane.give_back
                tasks.append(asyncio.create_task(settle(some)))
    await scene.write_all()
    await asyncio.gather(*tasks)
    assert (scene.broker.done, scene.broker.again, scene.broker.unsettled) == (*wanted, set())
