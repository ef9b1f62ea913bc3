"""Settling: what an outcome means for the row, and then for the token.

An outcome that cannot be recorded is kept, and tried until it can: its token stays unacknowledged and its slot
taken, so that nothing runs twice because of the wait alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import HISTORY_LIMIT, Attempt, ClaimedJob, JobError, Token
from jobkit.domain.retry import Decision, Isolate, Postpone, Release, Retry, ladder_step
from jobkit.ports import Dispatch, Held, Settlement, WorkStore
from jobkit.runtime.batcher import Batcher
from jobkit.runtime.publisher import Publisher

_log = logging.getLogger(__name__)

MAX_WAIT = 2.0
# Not written out where they are asked: a union is made anew each time.
WAITS = (Retry, Postpone)
FAILS = (Retry, Isolate)


class Settler:
    """Applies decisions in batches shared by all lanes."""

    def __init__(self, store: WorkStore, publisher: Publisher, worker_id: str) -> None:
        self._store = store
        self._publisher = publisher
        self._worker_id = worker_id
        self._batches: Batcher[Settlement, bool] = Batcher(self._settle, max_items=200, lanes=2)

    async def settle(
        self, job: ClaimedJob, decision: Decision, took: timedelta, *, has_token: bool = True
    ) -> bool:
        """Record `decision`; True once it stands, False when the claim was lost and nothing was written. Without a
        token, a job that goes on is nobody's: should this process die now, no token would come again."""
        step = None
        if isinstance(decision, WAITS):
            step = ladder_step(decision.delay)
            if step is not None:
                decision = replace(decision, delay=timedelta(milliseconds=step))
        # Who answers for the token: this session when it goes back through the broker; nobody, hence the
        # overdue reconciler, for a wait that is too long for it.
        ours = has_token and (step is not None or isinstance(decision, Release))
        session = self._publisher.session if ours else None
        error = decision.error if isinstance(decision, FAILS) else None
        done = await self._batches.add(
            Settlement(Held(job.job_id, job.delivery), decision, self._history(job, error, took), session)
        )
        if done and step is not None and has_token:
            await self._publisher.publish([Dispatch(next_token(job, decision), step)])
        return done

    def _history(self, job: ClaimedJob, error: JobError | None, took: timedelta) -> tuple[Attempt, ...]:
        if error is None:
            return job.history
        run = Attempt(job.delivery, self._worker_id, job.start_time, job.start_time + took, error)
        return (*job.history, run)[-HISTORY_LIMIT:]

    async def _settle(self, batch: Sequence[Settlement]) -> Sequence[bool | Exception]:
        wait = 0.05
        while True:
            try:
                return await self._store.settle(batch)
            except Unavailable as error:
                _log.warning("%d outcomes wait for the database: %s", len(batch), error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, MAX_WAIT)

    async def drain(self) -> None:
        await self._batches.drain()


def next_token(job: ClaimedJob, decision: Decision) -> Token:
    """The token of the run that follows."""
    counted = isinstance(decision, Retry) and decision.counted
    return Token(job.job_id, job.job_type, job.attempts + (2 if counted else 1), job.trace)
