"""Waiting for jobs: all waiters of a process share one query, hurried by signals from the workers.

A signal may be lost, so the query also runs by itself: soon after a wait began, then less and less often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from jobkit.domain.errors import NotFound, Unavailable
from jobkit.domain.job import Job
from jobkit.host.channels import ENDED, WATCHES
from jobkit.ports import JobReader, Signals
from jobkit.runtime.lifecycle import Loops

FIRST_LOOK = 0.05
SLOWEST_LOOK = 1.0
# Workers forget a watch after a minute: it is repeated before.
REPEAT_SECONDS = 20.0
BATCH = 500


class _Waiter:
    def __init__(self, now: float) -> None:
        self.ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self.look_at = now + FIRST_LOOK
        self.gap = FIRST_LOOK


class Waiters:
    """`wait` returns when a job needs no more waiting, or when the time is over."""

    def __init__(self, reader: JobReader, signals: Signals) -> None:
        self._reader = reader
        self._signals = signals
        self._waiting: dict[UUID, list[_Waiter]] = {}
        self._hurried: set[UUID] = set()
        self._woken = asyncio.Event()
        self._loops = Loops()
        self._unlisten: Callable[[], None] | None = None

    def start(self) -> None:
        self._unlisten = self._signals.listen(ENDED, self._heard)
        self._loops.spawn("waiters", self._run)
        self._loops.every(REPEAT_SECONDS, "watches", self._repeat)

    async def stop(self) -> None:
        """Waiters get the job as it is by their own timeout. Safe to repeat."""
        if self._unlisten is not None:
            self._unlisten()
        await self._loops.stop()

    async def wait(self, job_id: UUID, timeout: timedelta) -> Job:
        """The job, settled or as it is when `timeout` is over. Raises NotFound, Unavailable."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.time())
        self._waiting.setdefault(job_id, []).append(waiter)
        try:
            # The watch goes out before the first look: whatever ends between the two is seen by one of them.
            await self._signals.send(WATCHES, [job_id])
            job = await self._look(job_id)
            if job.settled:
                return job
            self._woken.set()
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    return await asyncio.shield(waiter.ended)
            except TimeoutError:
                return await self._look(job_id)
        finally:
            self._waiting[job_id].remove(waiter)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _look(self, job_id: UUID) -> Job:
        job = (await self._reader.get([job_id])).get(job_id)
        if job is None:
            raise NotFound("job", str(job_id))
        return job

    def _heard(self, ids: Sequence[UUID]) -> None:
        self._hurried.update(job_id for job_id in ids if job_id in self._waiting)
        if self._hurried:
            self._woken.set()

    async def _repeat(self) -> None:
        ids = list(self._waiting)
        for start in range(0, len(ids), BATCH):
            await self._signals.send(WATCHES, ids[start : start + BATCH])

    async def _run(self) -> None:
        while True:
            due = self._due()
            for start in range(0, len(due), BATCH):
                await self._read(due[start : start + BATCH])
            self._woken.clear()
            if self._hurried:
                continue
            try:
                async with asyncio.timeout(FIRST_LOOK if self._waiting else None):
                    await self._woken.wait()
            except TimeoutError:
                pass

    def _due(self) -> list[UUID]:
        now = asyncio.get_running_loop().time()
        due = set(self._hurried) & self._waiting.keys()
        self._hurried.clear()
        for job_id, waiters in self._waiting.items():
            for waiter in waiters:
                if waiter.look_at <= now:
                    due.add(job_id)
                    waiter.gap = min(waiter.gap * 2, SLOWEST_LOOK)
                    waiter.look_at = now + waiter.gap
        return sorted(due)

    async def _read(self, ids: Sequence[UUID]) -> None:
        try:
            found = await self._reader.get(ids)
        except Unavailable:
            return  # the next look, or the waiter's own timeout, tells
        for job_id, job in found.items():
            if job.settled:
                for waiter in self._waiting.get(job_id, ()):
                    if not waiter.ended.done():
                        waiter.ended.set_result(job)
