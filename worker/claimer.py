"""Claims: concurrent tokens of all lanes share one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import ClaimedJob
from jobkit.ports import Lease, Miss, WorkStore
from jobkit.runtime.batcher import Batcher
from worker.sight import Sight

R = TypeVar("R")
TRIES = 3


class Claimer:
    """Turns job ids into claims. Raises Unavailable to the callers of a batch that could not be claimed.
    `sight` is to be told when the database answers."""

    def __init__(
        self, store: WorkStore, worker_id: str, lease: timedelta, new_id: Callable[[], UUID]
    ) -> None:
        self._store = store
        self._worker_id = worker_id
        self._lease = lease
        self._new_id = new_id
        self._batches: Batcher[UUID, ClaimedJob | Miss] = Batcher(self._claim, max_items=200, lanes=2)
        self._fronts: dict[str, int] = {}
        self.sight = Sight(lease)

    async def claim(self, job_id: UUID) -> ClaimedJob | Miss:
        """A job whose lease ran out is taken over, but not before we saw the database through a whole lease."""
        answer = await self._batches.add(job_id)
        if isinstance(answer, ClaimedJob) or answer.expired is None:
            return answer
        blind = self.sight.clear_in()
        if blind:
            return Miss(blind, answer.expired)
        return await self._take_over(answer.expired)

    def take_fronts(self) -> dict[str, int]:
        """By type: the smallest due time (database ms) claimed since the last call."""
        fronts, self._fronts = self._fronts, {}
        return fronts

    async def _take_over(self, expired: Lease) -> ClaimedJob | Miss:
        claim_id = self._new_id()
        return await self._tried(
            lambda: self._store.take_over(
                expired, claim_id=claim_id, worker_id=self._worker_id, lease=self._lease
            )
        )

    async def _tried(self, work: Callable[[], Awaitable[R]]) -> R:
        """Again after a lost reply; raises Unavailable after `TRIES`."""
        for attempt in range(1, TRIES):
            try:
                return await work()
            except Unavailable:
                self.sight.broke()
                await asyncio.sleep(0.1 * attempt)
        return await work()

    async def _claim(self, ids: Sequence[UUID]) -> Sequence[ClaimedJob | Miss | Exception]:
        # One id for the batch, kept through its repeats: after a lost reply the same claim wins again.
        claim_id = self._new_id()
        found = await self._tried(
            lambda: self._store.claim(ids, claim_id=claim_id, worker_id=self._worker_id, lease=self._lease)
        )
        for claimed in found.values():
            if isinstance(claimed, ClaimedJob):
                due = round(claimed.due_time.timestamp() * 1000)
                self._fronts[claimed.job_type] = min(due, self._fronts.get(claimed.job_type, due))
        return _one_each(ids, found)

    async def drain(self) -> None:
        await self._batches.drain()


def _one_each(
    ids: Sequence[UUID], found: Mapping[UUID, ClaimedJob | Miss]
) -> list[ClaimedJob | Miss | Exception]:
    """A batch may hold one id twice (a surplus token): the first gets the claim, the second nothing."""
    if len(found) == len(ids):
        return [found[job_id] for job_id in ids]
    given: set[UUID] = set()
    answers: list[ClaimedJob | Miss | Exception] = []
    for job_id in ids:
        answers.append(Miss(None) if job_id in given else found[job_id])
        given.add(job_id)
    return answers
