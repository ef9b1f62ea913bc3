"""The claims that this process holds: renewed in one batch, cancelled on request, their progress written once a
second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import ClaimedJob
from jobkit.domain.outcome import Interrupted
from jobkit.ports import Held, WorkStore
from jobkit.runtime.batcher import Batcher

_log = logging.getLogger(__name__)

BATCH = 500
Interrupt = Callable[[UUID, Interrupted, int], None]
"""Told (job id, why, delivery) when a claim was cancelled or lost."""


@dataclass(slots=True)
class _Claim:
    held: Held
    renewed_at: float
    progress: tuple[int, int] | None = None


class Claims:
    """Live claims by job id."""

    def __init__(self, store: WorkStore, lease: timedelta, interrupt: Interrupt) -> None:
        self._store = store
        self._lease = lease
        self._claims: dict[UUID, _Claim] = {}
        self._interrupt_run = interrupt
        # One batch at a time, so that no older report overtakes a newer one.
        self._progress: Batcher[_Claim, None] = Batcher(self._write, max_items=BATCH)

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, job: ClaimedJob) -> None:
        held = Held(job.job_id, job.delivery)
        self._claims[job.job_id] = _Claim(held, asyncio.get_running_loop().time())

    def remove(self, job: ClaimedJob) -> None:
        claim = self._claims.get(job.job_id)
        if claim is not None and claim.held.delivery == job.delivery:
            del self._claims[job.job_id]

    def note_progress(self, job: ClaimedJob, processed: int, total: int) -> None:
        """The newest report of a running handler; written with the next flush."""
        claim = self._claims.get(job.job_id)
        if claim is not None and claim.held.delivery == job.delivery:
            claim.progress = (processed, total)

    async def renew(self) -> None:
        """Renew what is older than a third of a lease; run it about once a second."""
        now = asyncio.get_running_loop().time()
        third = self._lease.total_seconds() / 3
        due = [c for c in self._claims.values() if now - c.renewed_at >= third]
        for start in range(0, len(due), BATCH):
            await self._renew(due[start : start + BATCH], now)

    async def _renew(self, due: Sequence[_Claim], now: float) -> None:
        ours, cancelled = await self._store.renew([c.held for c in due], lease=self._lease)
        for claim in due:
            job_id = claim.held.job_id
            if job_id not in ours:
                self._interrupt(claim.held, Interrupted.LOST)
            else:
                claim.renewed_at = now
                if job_id in cancelled:
                    self._interrupt(claim.held, Interrupted.CANCELLED)

    def hurry(self, ids: Sequence[UUID]) -> bool:
        """Make the renewal of these due; True when any of them is ours."""
        ours = [self._claims[job_id] for job_id in ids if job_id in self._claims]
        for claim in ours:
            claim.renewed_at = float("-inf")
        return bool(ours)

    def _interrupt(self, held: Held, why: Interrupted) -> None:
        # A claim that is no longer here is being settled: the settle finds out by itself.
        current = self._claims.get(held.job_id)
        if current is not None and current.held == held:
            self._interrupt_run(held.job_id, why, held.delivery)

    async def write_progress(self) -> None:
        """Write the newest progress of every job that reported any; once a second."""
        reported = [claim for claim in self._claims.values() if claim.progress is not None]
        await asyncio.gather(*(self._progress.add(claim) for claim in reported))

    async def flush_progress(self, job: ClaimedJob) -> None:
        """The last progress before the end: a short job's only one. Done without while the database is away."""
        claim = self._claims.get(job.job_id)
        if claim is not None and claim.progress is not None:
            try:
                await self._progress.do(claim)
            except Unavailable as error:
                _log.debug("progress of %s was not written: %s", job.job_id, error)

    async def _write(self, claims: Sequence[_Claim]) -> Sequence[None]:
        part = [(claim, claim.progress) for claim in claims if claim.progress is not None]
        await self._store.progress([(claim.held, *progress) for claim, progress in part])
        for claim, written in part:
            if claim.progress == written:
                claim.progress = None
        return [None] * len(claims)
