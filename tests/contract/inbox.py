"""Tokens to send, and a receiver that can be awaited."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence

import pytest

from jobkit.domain.job import Token
from jobkit.ports import Delivery, Dispatch, Dispatcher, Undecodable

TYPE = "email"
PATIENCE = 30.0


def tokens(count: int, job_type: str = TYPE) -> list[Token]:
    return [Token(uuid.uuid4(), job_type, n + 1) for n in range(count)]


def dispatches(batch: Sequence[Token], delay: int = 0) -> list[Dispatch]:
    return [Dispatch(token, delay) for token in batch]


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for what the broker tells nobody: a depth, a consumer that it cancels."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {PATIENCE} s: {what}")


class Inbox:
    """A receiver that can be awaited."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._arrived.set()

    @property
    def tokens(self) -> list[Token | None]:
        return [delivery.token for delivery in self.deliveries]

    async def wait(self, count: int) -> list[Delivery]:
        """The first `count` deliveries."""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.deliveries) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pytest.fail(f"{len(self.deliveries)} deliveries, expected {count}")
        return self.deliveries[:count]

    async def stays(self, count: int) -> None:
        """Nothing more arrives; 0.1 s is long for what would come at once."""
        await asyncio.sleep(0.1)
        assert len(self.deliveries) == count


async def drained(dispatcher: Dispatcher, limit: int) -> list[Undecodable]:
    """Take messages out of the intake."""
    kept: list[Undecodable] = []

    async def keep(messages: Sequence[Undecodable]) -> None:
        kept.extend(messages)

    assert await dispatcher.drain_intake(limit, keep) == len(kept)
    return kept
