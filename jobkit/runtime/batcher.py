"""Concurrent callers share one call: the shape of every hot path.

A batch forms only while the one before it is in flight, so a lone caller waits for nobody (no linger timer) and
a crowd shares one statement and one commit. After "Group Commit" (DeWitt et al., 1984) without the timer.

Callers often come one by one, in short succession: whoever starts a batch for the first of them pays its whole price
for one item. So a batch begins in a turn of the loop that brings nobody new, and a second one goes beside it only
when it is full, or when the first is late. Where a batch is dear and callers overlap, a batch may wait a little as
well: then a crowd shares what a lone caller would not wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# A batch in flight for so long may be held up by something that is not the next one's business, such as a lock.
LATE_SECONDS = 0.005
# For so long a batch waits for those who keep coming, turn after turn.
GATHER_SECONDS = 0.001
# Callers that overlapped within so many times `crowd` are one.
CROWD = 4
# While so many come in each `crowd`, a batch waits for more of them,
COMING = 4
# until there are so many, which are worth its price, or three quarters of those that waited at once lately (in
# seconds): the rest comes while this one is in flight. Callers who wait for their answers do not come any sooner.
WORTH = 96
LATELY = 0.05


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a batch begins, in seconds. Beside another one, when nothing has moved that one for `late`. And while
    callers overlap, its first one waits for others up to `crowd`; as long as they come in numbers, to `longest`."""

    late: float = LATE_SECONDS
    crowd: float = 0.0
    longest: float = 0.0


class Batcher(Generic[T, R]):
    """Collects items while a batch is in flight; at most `lanes` are, all but one of them full when they began, or
    begun because the `rhythm` said so.

    `work` gets the items in order and answers each; an exception in place of an answer is raised to that item's
    caller alone, an exception raised by `work` is raised to all of the batch. A batch holds at most `max_items`
    items and `max_bytes` bytes by `size` (one item may exceed it alone).
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        max_items: int = 500,
        max_bytes: int = 1 << 20,
        size: Callable[[T], int] = lambda item: 0,
        lanes: int = 1,
        rhythm: Rhythm = Rhythm(),
    ) -> None:
        self._work = work
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size = size
        self._free = self._lanes = lanes
        self._late, self._crowd, self._longest = rhythm.late, rhythm.crowd, rhythm.longest
        self._crowd_until = 0.0
        self._waiting_since = 0.0
        self._in_flight = 0
        self._most, self._most_before, self._counting_since = 0, 0, 0.0
        self._pausing: asyncio.TimerHandle | None = None
        self._beginning = 0
        self._gathered = 0
        self._gathering_since = 0.0
        self._began_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # The first caller's. Asked for each time it would cost each item several system calls.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._pending_bytes = 0
        self._running: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """Items accepted and not yet handed to `work`."""
        return len(self._waiting)

    @property
    def pending_bytes(self) -> int:
        """Their size: a caller that takes from many must bound what may wait."""
        return self._pending_bytes

    def add(self, item: T) -> asyncio.Future[R]:
        """Put `item` into the next batch; the future has its answer."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        if self._crowd:
            self._note_crowd(loop.time())
        self._waiting.append((item, future))
        self._pending_bytes += self._size(item)
        if self._pausing is not None and len(self._waiting) >= self._worth:
            self._pausing.cancel()
            self._resume(loop)
        self._look(loop)
        return future

    def _note_crowd(self, now: float) -> None:
        """Somebody comes."""
        if self._waiting or self._free < self._lanes:
            self._crowd_until = now + CROWD * self._crowd
        if not self._waiting:
            self._waiting_since = now
        if now - self._counting_since > LATELY:
            self._most_before, self._most, self._counting_since = self._most, 0, now
        self._most = max(self._most, self._in_flight + len(self._waiting) + 1)

    @property
    def _worth(self) -> int:
        """So many make a batch that waits for nobody else."""
        return min(max(self._most, self._most_before) * 3 // 4, WORTH)

    async def do(self, item: T) -> R:
        """`add` and await."""
        return await self.add(item)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a batch, if one may begin now."""
        if not self._waiting or not self._free:
            return
        if self._free == self._lanes or self._full:
            self._begin(loop)
        elif self._timer is None:
            self._timer = loop.call_later(self._late, self._overtake, loop)

    @property
    def _full(self) -> bool:
        """Whether what waits fills one batch more than those that are about to begin."""
        batches = self._beginning + 1
        return (
            len(self._waiting) >= batches * self._max_items
            or self._pending_bytes >= batches * self._max_bytes
        )

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._free -= 1
        self._beginning += 1
        self._gathered, self._gathering_since = len(self._waiting), loop.time()
        # Not at once: callers that are ready in this same turn of the loop join the batch.
        loop.call_soon(self._launch, loop)

    def _overtake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        moved = loop.time() - self._began_at < self._late / 2
        if self._waiting and self._free and not moved and self._pausing is None:
            self._begin(loop)
        self._look(loop)

    @property
    def _enough(self) -> bool:
        """Whether what waits is a full batch."""
        return len(self._waiting) >= self._max_items or self._pending_bytes >= self._max_bytes

    def _grows(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this turn of the loop brought more, and there is time for yet more."""
        waiting, before = len(self._waiting), self._gathered
        self._gathered = waiting
        return waiting > before and loop.time() - self._gathering_since < GATHER_SECONDS

    def _pause(self, now: float) -> float:
        """How long what waits should wait for others."""
        waiting, crowd = len(self._waiting), self._crowd
        if waiting >= self._worth or now >= self._crowd_until:
            return 0.0
        age = now - self._waiting_since
        if age < crowd:
            return crowd - age
        return min(crowd, self._longest - age) if waiting * crowd >= COMING * age else 0.0

    def _launch(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._enough:
            if self._grows(loop):
                loop.call_soon(self._launch, loop)
                return
            if self._crowd and (pause := self._pause(loop.time())) > 0:
                self._pausing = loop.call_later(pause, self._resume, loop)
                return
        self._beginning -= 1
        batch = self._take()
        if not batch:
            self._free += 1
            return
        self._began_at = loop.time()
        self._in_flight += len(batch)
        task = loop.create_task(self._run(batch, loop))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _resume(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pausing = None
        self._launch(loop)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        bytes_left = self._max_bytes
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting[0]
            weight = self._size(item)
            if batch and weight > bytes_left:
                break
            self._waiting.popleft()
            # An item whose caller has gone is still done: it may be half-way through the product already.
            bytes_left -= weight
            self._pending_bytes -= weight
            batch.append((item, future))
        return batch

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]], loop: asyncio.AbstractEventLoop) -> None:
        try:
            answers = await self._work([item for item, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except BaseException as error:
            failure = error if isinstance(error, Exception) else asyncio.CancelledError()
            for _, future in batch:
                _fail(future, failure)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), answer in answered:
                if isinstance(answer, Exception):
                    _fail(future, answer)
                elif not future.done():
                    future.set_result(answer)
        finally:
            self._in_flight -= len(batch)
            self._free += 1
            self._look(loop)

    async def drain(self) -> None:
        """Wait until everything added so far is answered."""
        while self._waiting or self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(0)


def _fail(future: asyncio.Future[R], error: Exception | asyncio.CancelledError) -> None:
    if future.done():
        return
    future.set_exception(error)
    future.exception()  # a caller that has gone is no reason for asyncio to complain
