"""A thousand lanes that open at once wait for their turn, and not for each other's time-outs."""

from __future__ import annotations

import asyncio
from typing import Any

from jobkit.adapters.rabbitmq.dispatcher import TURNS, RabbitDispatcher
from jobkit.domain.errors import Unavailable, store_unavailable


class SlowLink:
    """Answers no sooner than all who may ask at a time have asked."""

    def __init__(self) -> None:
        self.asking = self.most = self.asked = 0

    async def wait(self) -> None:
        """There is a connection."""

    async def channel(self) -> Any:
        self.asked += 1
        self.asking += 1
        self.most = max(self.most, self.asking)
        for _ in range(5):
            await asyncio.sleep(0)
        self.asking -= 1
        raise store_unavailable("broker")


async def test_lanes_that_open_at_once_take_turns() -> None:
    dispatcher = RabbitDispatcher("amqp://nobody")
    link: Any = SlowLink()
    dispatcher._in = link
    lanes = [dispatcher.open_lane(f"type-{n}", lambda delivery: None) for n in range(3 * TURNS)]
    answers = await asyncio.gather(*lanes, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert link.asked == 3 * TURNS
    assert link.most == TURNS
