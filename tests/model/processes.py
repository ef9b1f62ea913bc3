"""Processes that may die at every await: whatever one of them calls outside itself goes through here.

A process that died calls nothing any more, and all its tasks are cancelled; what it had called is done all the same,
because a statement that has reached the database does not care who asked for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from jobkit.adapters.embedded.dispatcher import EmbeddedDispatcher, EmbeddedLane
from jobkit.domain.errors import store_unavailable
from jobkit.ports import Delivery, Dispatch

R = TypeVar("R")
LATENCY = 0.002  # seconds, there and back again
CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Kind(Enum):
    """What goes wrong with a call."""

    CRASH_BEFORE = "the process dies before it"
    CRASH_AFTER = "the process dies after it"
    REFUSED = "it is not done"
    LOST = "it is done, and nobody says so"


@dataclass
class Trouble:
    """What happens to the `nth` call of `point` from now on."""

    kind: Kind
    point: str
    nth: int


class Process:
    """One process of the fleet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.unsound_since: float | None = None  # the loop's seconds
        self.troubles: list[Trouble] = []
        self.lanes: list[EmbeddedLane] = []
        self.died: Callable[[], None] = lambda: None
        self._outside = contextvars.copy_context()
        self._context = contextvars.copy_context()
        self._context.run(CURRENT.set, self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thaws_at = 0.0

    def within(self, work: Callable[..., R], *arguments: Any) -> R:
        """Call `work` as this process."""
        return self._context.copy().run(work, *arguments)

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run `work` in it."""
        return self.within(asyncio.get_running_loop().create_task, work)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """A task of ours began."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.dead:
            task.cancel()

    def upset(self) -> None:
        """From here on it may not end what it began."""
        if self.unsound_since is None:
            self.unsound_since = asyncio.get_running_loop().time()

    def sound_until(self, seconds: float) -> bool:
        """Whether nothing had happened to it by then."""
        return self.unsound_since is None or self.unsound_since > seconds

    def crash(self) -> None:
        """SIGKILL. The broker sees the connection close."""
        if self.dead:
            return
        self.dead = True
        self.upset()
        for task in list(self._tasks):
            task.cancel()
        for lane in self.lanes:
            self._elsewhere(lane.close())
        self.died()

    def freeze(self, seconds: float) -> None:
        """Nothing leaves it for so long, and then all that it had meant to say."""
        self.upset()
        self._thaws_at = asyncio.get_running_loop().time() + seconds

    async def lose_channels(self) -> None:
        """The broker closes them."""
        for lane in self.lanes:
            await lane.close()

    async def call(self, point: str, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Something outside: raises Unavailable in trouble, and CancelledError once the process is dead."""
        return await self.try_call(point, work, _away, _away)

    async def try_call(
        self,
        point: str,
        work: Callable[[], Coroutine[Any, Any, R]],
        refuse: Callable[[], Awaitable[R]],
        lose: Callable[[], Awaitable[R]],
    ) -> R:
        """The same with answers of its own to trouble."""
        await self._travel()
        kind = self._trouble(point)
        if kind is Kind.CRASH_BEFORE:
            self.crash()
        await self._travel()
        if kind is Kind.REFUSED:
            return await refuse()
        answer = await asyncio.shield(self._elsewhere(work()))
        if kind is Kind.CRASH_AFTER:
            self.crash()
        await self._travel()
        return await lose() if kind is Kind.LOST else answer

    async def _travel(self) -> None:
        frozen = self._thaws_at - asyncio.get_running_loop().time()
        if not self.dead:
            await asyncio.sleep(max(frozen, LATENCY))
        if self.dead:
            raise asyncio.CancelledError

    def _trouble(self, point: str) -> Kind | None:
        for trouble in self.troubles:
            if trouble.point == point:
                trouble.nth -= 1
                if not trouble.nth:
                    self.troubles.remove(trouble)
                    return trouble.kind
        return None

    def _elsewhere(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        return self._outside.copy().run(asyncio.get_running_loop().create_task, work)


async def _away() -> Any:
    raise store_unavailable("database")


def factory(
    loop: asyncio.AbstractEventLoop, work: Any, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """Every task belongs to the process that began it."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = CURRENT.get() if context is None else context.get(CURRENT)
    if process is not None:
        process.keep(task)
    return task


class Outside:
    """An adapter as a process sees it: each of its async methods is a call outside."""

    def __init__(self, process: Process, target: object) -> None:
        self._process, self._target = process, target

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._target, name)
        if not inspect.iscoroutinefunction(real):
            return real

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._process.call(name, lambda: real(*arguments, **named))

        return call


class OutsideDispatcher(Outside):
    """The broker as a process sees it. It never raises for the sake of a publish."""

    _target: EmbeddedDispatcher

    async def publish(self, batch: Sequence[Dispatch]) -> list[bool]:
        async def unknown() -> list[bool]:
            return [False] * len(batch)

        return await self._process.try_call("publish", lambda: self._target.publish(batch), unknown, unknown)

    async def open_lane(self, job_type: str, receive: Callable[[Delivery], None]) -> OutsideLane:
        process = self._process

        def hand(delivery: Delivery) -> None:
            if not process.dead:
                process.within(receive, delivery)

        lane = await process.call("open_lane", lambda: self._target.open_lane(job_type, hand))
        process.lanes.append(lane)
        return OutsideLane(process, lane)


class OutsideLane(Outside):
    """A channel: in trouble it is closed, whatever it was about to carry, and says nothing."""

    _target: EmbeddedLane

    @property
    def job_type(self) -> str:
        return self._target.job_type

    @property
    def consuming(self) -> bool:
        return self._target.consuming

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._process.try_call(
            "ack", lambda: self._target.ack(deliveries), self._target.close, self._target.close
        )

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        await self._process.try_call(
            "give_back", lambda: self._target.give_back(deliveries), self._target.close, self._target.close
        )
