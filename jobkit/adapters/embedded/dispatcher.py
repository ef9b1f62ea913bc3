"""Dispatch within one process: the queues of `selfheal dev`, with the manners of the broker's.

Tokens die with the process and are published again from the database at the next start, hence `volatile`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakSet

from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import Token
from jobkit.ports import Delivery, Dispatch, Undecodable

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Entry:
    """A token on a queue. `position` is its place for good: what is returned goes back to it."""

    position: int
    token: Token
    redelivered: bool = False


class EmbeddedDelivery:
    """A token in hand. `epoch` is the lane's at that time: closing a lane begins another."""

    __slots__ = ("entry", "epoch", "lane")

    def __init__(self, lane: EmbeddedLane, entry: Entry) -> None:
        self.lane = lane
        self.entry = entry
        self.epoch = lane.epoch

    @property
    def token(self) -> Token | None:
        return self.entry.token

    @property
    def redelivered(self) -> bool:
        return self.entry.redelivered

    @property
    def live(self) -> bool:
        return self.epoch == self.lane.epoch


class Line:
    """The queue of one job type: what is ready, in order, and the lanes that it is dealt to in turn."""

    def __init__(self) -> None:
        self.ready: deque[Entry] = deque()
        self._lanes: deque[EmbeddedLane] = deque()
        self._positions = itertools.count()
        self._dealing = False

    def append(self, token: Token) -> None:
        self.ready.append(Entry(next(self._positions), token))
        self.wake()

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Each to its place, marked redelivered."""
        for entry in sorted(entries, key=lambda entry: entry.position, reverse=True):
            entry.redelivered = True
            index = next((i for i, other in enumerate(self.ready) if other.position > entry.position), None)
            self.ready.insert(len(self.ready) if index is None else index, entry)
        self.wake()

    def join(self, lane: EmbeddedLane) -> None:
        if lane not in self._lanes:
            self._lanes.append(lane)
        self.wake()

    def leave(self, lane: EmbeddedLane) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)

    def wake(self) -> None:
        """Deal soon, not now: a receiver may be in the middle of acknowledging."""
        if not self._dealing and self.ready and self._lanes:
            self._dealing = True
            asyncio.get_running_loop().call_soon(self._deal)

    def _deal(self) -> None:
        self._dealing = False
        full = 0
        while self.ready and full < len(self._lanes):
            lane = self._lanes[0]
            self._lanes.rotate(-1)
            if lane.has_room:
                lane.hand(self.ready.popleft())
                full = 0
            else:
                full += 1


class EmbeddedLane:
    """See `ports.Lane`."""

    def __init__(
        self, dispatcher: EmbeddedDispatcher, job_type: str, line: Line, receive: Callable[[Delivery], None]
    ) -> None:
        self.epoch = 0
        self._dispatcher = dispatcher
        self._job_type = job_type
        self._line = line
        self._receive = receive
        self._consuming = False
        self._prefetch = 0
        self._in_hand: dict[int, Entry] = {}

    @property
    def job_type(self) -> str:
        return self._job_type

    @property
    def consuming(self) -> bool:
        return self._consuming

    @property
    def has_room(self) -> bool:
        """Whether the prefetch allows one more."""
        return len(self._in_hand) < self._prefetch

    async def consume(self, prefetch: int) -> None:
        if prefetch < 1:
            raise ValueError("a prefetch of 0 would be unlimited")
        self._check_open()
        self._consuming, self._prefetch = True, prefetch
        self._line.join(self)

    async def pause(self) -> None:
        self._consuming = False
        self._line.leave(self)

    async def take(self) -> Delivery | None:
        self._check_open()
        if not self._line.ready:
            return None
        return self._delivery(self._line.ready.popleft())

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._withdraw(deliveries)
        self._line.wake()

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self._line.put_back(self._withdraw(deliveries))

    async def quarantine(self, delivery: Delivery) -> None:
        self._check_open()
        if delivery.live and delivery.token is not None:
            self._dispatcher.intake.append(_filed(delivery.token))
        await self.ack([delivery])

    async def close(self) -> None:
        await self.pause()
        entries = list(self._in_hand.values())
        self._in_hand.clear()
        self.epoch += 1
        self._line.put_back(entries)

    def hand(self, entry: Entry) -> None:
        """Give the receiver a token; its errors are its own."""
        try:
            self._receive(self._delivery(entry))
        except Exception:
            log.exception("the receiver of %s failed", self._job_type)

    def _delivery(self, entry: Entry) -> EmbeddedDelivery:
        self._in_hand[entry.position] = entry
        return EmbeddedDelivery(self, entry)

    def _withdraw(self, deliveries: Sequence[Delivery]) -> list[Entry]:
        """Out of our hands: those that are live and not settled yet."""
        ours = (d for d in deliveries if isinstance(d, EmbeddedDelivery) and d.lane is self and d.live)
        entries = (self._in_hand.pop(delivery.entry.position, None) for delivery in ours)
        return [entry for entry in entries if entry is not None]

    def _check_open(self) -> None:
        if not self._dispatcher.available:
            raise store_unavailable("broker")


class EmbeddedDispatcher:
    """See `ports.Dispatcher`. To be used from one event loop."""

    volatile = True

    def __init__(self) -> None:
        self.intake: list[Undecodable] = []
        self._lines: dict[str, Line] = {}
        self._lanes: WeakSet[EmbeddedLane] = WeakSet()
        self._delayed: list[tuple[float, int, Token]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    @property
    def available(self) -> bool:
        return self._running

    @property
    def delivering(self) -> bool:
        return self._running

    async def start(self) -> None:
        self._running = True

    async def publish(self, batch: Sequence[Dispatch]) -> list[bool]:
        if not self._running:
            return [False] * len(batch)
        now = asyncio.get_running_loop().time()
        for dispatch in batch:
            if dispatch.delay:
                due = now + dispatch.delay / 1000
                heapq.heappush(self._delayed, (due, next(self._order), dispatch.token))
            else:
                self._line(dispatch.token.job_type).append(dispatch.token)
        self._set_timer()
        return [True] * len(batch)

    async def open_lane(self, job_type: str, receive: Callable[[Delivery], None]) -> EmbeddedLane:
        if not self._running:
            raise store_unavailable("broker")
        lane = EmbeddedLane(self, job_type, self._line(job_type), receive)
        self._lanes.add(lane)
        return lane

    async def depth(self, job_type: str) -> int:
        line = self._lines.get(job_type)
        return len(line.ready) if line else 0

    async def drop(self, job_type: str) -> bool:
        lanes = [lane for lane in self._lanes if lane.job_type == job_type]
        if any(lane.consuming for lane in lanes):
            return False
        if lanes:  # they hold on to the line
            self._line(job_type).ready.clear()
        else:
            self._lines.pop(job_type, None)
        return True

    async def drain_intake(self, limit: int, keep: Callable[[Sequence[Undecodable]], Awaitable[None]]) -> int:
        taken = self.intake[:limit]
        if taken:
            await keep(taken)
            del self.intake[: len(taken)]
        return len(taken)

    async def close(self) -> None:
        for lane in list(self._lanes):
            await lane.close()
        self._running = False
        self._lines.clear()
        self._delayed.clear()
        self._set_timer()

    def _line(self, job_type: str) -> Line:
        return self._lines.setdefault(job_type, Line())

    def _set_timer(self) -> None:
        """One timer, for the earliest of all delays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._delayed:
            self._timer = asyncio.get_running_loop().call_at(self._delayed[0][0], self._release)

    def _release(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._delayed and self._delayed[0][0] <= now:
            token = heapq.heappop(self._delayed)[2]
            self._line(token.job_type).append(token)
        self._set_timer()


def _filed(token: Token) -> tuple[bytes, Mapping[str, str]]:
    """A token as it is filed in the intake: readable, since it never had a wire form."""
    body = {"job_id": str(token.job_id), "job_type": token.job_type, "attempt": token.attempt}
    headers = {"x-job-id": str(token.job_id), "x-job-type": token.job_type, "x-attempt": str(token.attempt)}
    return json.dumps(body).encode(), headers
