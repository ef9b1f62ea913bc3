"""Submitting: validated -> one commit for all who submit at once -> answered -> published."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter

from jobapi.admission import Admission
from jobkit.domain.errors import Exhausted, Unavailable
from jobkit.domain.job import Job, JobState, NewJob, Token
from jobkit.ports import Accepted, Dispatch, Intake
from jobkit.runtime.batcher import Batcher, Rhythm
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.publisher import Publisher
from jobkit.runtime.tracing import Tracing

# Accepted from callers and not yet handed to the database: while that is slow, memory stays bounded.
MAX_WAITING = 20_000
MAX_WAITING_BYTES = 32 << 20
RETRY_AFTER = timedelta(seconds=1)
# gRPC hands over about one call in a turn of the loop: without this a crowd's batches are of two or three, and each
# costs the price of a commit, a write to the broker and a confirm.
APART_SECONDS = 0.003


class Submitter:
    """Accepts jobs. "Accepted" means committed: the broker's confirm is not waited for, because a row whose token
    does not arrive is overdue, and a reconciler publishes it."""

    def __init__(
        self,
        intake: Intake,
        admission: Admission,
        publisher: Publisher,
        clock: DatabaseClock,
        tracing: Tracing,
        registry: CollectorRegistry,
    ) -> None:
        self._intake = intake
        self._admission = admission
        self.types = admission.types
        self._publisher = publisher
        self._clock = clock
        self._tracing = tracing
        self._batches: Batcher[NewJob, Accepted] = Batcher(
            self._insert,
            max_items=500,
            max_bytes=1 << 20,
            size=lambda job: len(job.payload),
            lanes=2,
            rhythm=Rhythm(apart=APART_SECONDS),
        )
        self._submitted = Counter(
            "selfheal_jobs_submitted_total", "Jobs accepted.", ["job_type"], registry=registry
        )
        # Looking a child up by its label costs more than counting with it. Types are bounded.
        self._submitted_of = lru_cache(4096)(self._submitted.labels)

    async def submit(self, job: NewJob) -> Accepted:
        """Raises AlreadyExists, Exhausted, Unavailable; once it returns the job is recorded."""
        with self._expected([job]):
            future = self._add(job, await self._admission.prepare([job.job_type]))
        return await future

    async def submit_many(self, batch: Sequence[NewJob]) -> list[Accepted | Exception]:
        """Each item's answer, in order. Raises Unavailable when nothing could be looked at."""
        with self._expected(batch):
            unfit = await self._admission.prepare({job.job_type for job in batch})
        futures: list[asyncio.Future[Accepted] | Exception] = []
        for job in batch:
            try:
                futures.append(self._add(job, unfit))
            except (Exhausted, Unavailable) as error:
                self._publisher.forget([job.job_id])
                futures.append(error)
        return [await _answer(future) for future in futures]

    def _add(self, job: NewJob, unfit: dict[str, int]) -> asyncio.Future[Accepted]:
        waiting = self._batches
        if waiting.pending >= MAX_WAITING or waiting.pending_bytes >= MAX_WAITING_BYTES:
            raise Exhausted(
                "too many submits wait for the database",
                reason="TOO_MANY_REQUESTS",
                retry_after=RETRY_AFTER,
                metadata={"limit": str(MAX_WAITING)},
            )
        self._admission.check(job, unfit)
        return waiting.add(job)

    @contextmanager
    def _expected(self, batch: Sequence[NewJob]) -> Iterator[None]:
        """From here on no beat confirms these ids, although it may come long before their commit; once they are
        in a batch, `_insert` sees to them."""
        ids = [job.job_id for job in batch]
        self._publisher.expect(ids)
        try:
            yield
        except BaseException:
            self._publisher.forget(ids)
            raise

    async def _insert(self, batch: Sequence[NewJob]) -> Sequence[Accepted | Exception]:
        ordered = sorted(batch, key=lambda job: job.job_id)
        publisher = self._publisher
        session = publisher.session if publisher.open else None
        ids = [job.job_id for job in batch]
        if session is None:
            publisher.forget(ids)
        marks = {job.job_type: self.types.mark(job.job_type) for job in batch}
        try:
            answers = await self._intake.insert(batch, session=session, now=self._clock.now(), marks=marks)
        except Exception:
            # The commit may have happened, and a repeat with the same request_id will then be told "accepted".
            if session is not None:
                publisher.disown(ids)
            self._count(batch, ())
            raise
        fresh = {a.job_id for a in answers if isinstance(a, Accepted) and not a.existed}
        if session is not None:
            publisher.forget(job_id for job_id in ids if job_id not in fresh)
            accepted = [job for job in ordered if job.job_id in fresh]
            if accepted:
                publisher.send([Dispatch(self._token(job)) for job in accepted])
        self._count(batch, fresh)
        return answers

    def _count(self, batch: Sequence[NewJob], fresh: Collection[UUID]) -> None:
        for job in batch:
            accepted = job.job_id in fresh
            self._admission.backlog.came(job.job_type, accepted=accepted)
            if accepted:
                self._submitted_of(job.job_type).inc()

    def _token(self, job: NewJob) -> Token:
        trace = self._tracing.publish(job.job_type, str(job.job_id), job.trace)
        return Token(job.job_id, job.job_type, 1, trace)

    def as_recorded(self, new: NewJob) -> Job:
        """A job that was just accepted, as its row says, without reading it back."""
        now = datetime.fromtimestamp(self._clock.now() / 1000, UTC)
        quarantine = self.types.quarantine(new.job_type, now)
        waiting = JobState.QUEUED if self._publisher.open else JobState.PENDING
        return Job(
            job_id=new.job_id,
            job_type=new.job_type,
            state=waiting if quarantine is None else JobState.QUARANTINED,
            payload=new.payload,
            create_time=now,
            update_time=now,
            due_time=now,
            request_id=new.request_id,
            labels=new.labels,
            holds=0 if quarantine is None else 1,
            max_attempts=new.max_attempts,
            quarantine=quarantine,
            trace=new.trace,
        )

    async def drain(self) -> None:
        await self._batches.drain()


async def _answer(future: asyncio.Future[Accepted] | Exception) -> Accepted | Exception:
    if isinstance(future, Exception):
        return future
    try:
        return await future
    except Exception as error:
        return error
