"""Concurrent callers share one call: the shape of every hot path.

A batch forms only while the one before it is in flight, so a lone caller waits for nobody (no linger timer) and
a crowd shares one statement and one commit. After "Group Commit" (DeWitt et al., 1984) without the timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects items while at most `lanes` batches are in flight.

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
    ) -> None:
        self._work = work
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size = size
        self._free = lanes
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
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._pending_bytes += self._size(item)
        if self._free:
            self._free -= 1
            # Not at once: callers that are ready in this same turn of the loop join the batch.
            asyncio.get_running_loop().call_soon(self._launch)
        return future

    async def do(self, item: T) -> R:
        """`add` and await."""
        return await self.add(item)

    def _launch(self) -> None:
        batch = self._take()
        if not batch:
            self._free += 1
            return
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

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

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
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
            self._launch()

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
