"""Submitting: validated -> one commit for all who submit at once -> answered -> published."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter

from jobapi.admission import Admission
from jobkit.domain.errors import Exhausted, SelfhealError
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
# gRPC hands over about one call in a turn of the loop: without this the batches of a crowd of single submits are of
# two or three, and each costs the price of a commit, a write to the broker and a confirm.
SINGLES = Rhythm(crowd=0.003, longest=0.012)
# Callers that bring many have shared already.
MANY = Rhythm()


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
        self._singles = self._batcher(SINGLES)
        self._many = self._batcher(MANY)
        self._submitted = Counter(
            "selfheal_jobs_submitted_total", "Jobs accepted.", ["job_type"], registry=registry
        )
        # Looking a child up by its label costs more than counting with it. Types are bounded.
        self._submitted_of = lru_cache(4096)(self._submitted.labels)

    def _batcher(self, rhythm: Rhythm) -> Batcher[NewJob, Accepted]:
        return Batcher(
            self._insert,
            max_items=500,
            max_bytes=1 << 20,
            size=lambda job: len(job.payload),
            lanes=2,
            rhythm=rhythm,
        )

    async def submit(self, job: NewJob) -> Accepted:
        """Raises AlreadyExists, Exhausted, Unavailable; once it returns the job is recorded."""
        unfit = await self._prepare((job,))
        return await self._add(job, unfit, self._singles)

    async def submit_many(self, batch: Sequence[NewJob]) -> list[Accepted | Exception]:
        """Each item's answer, in order. Raises Unavailable when nothing could be looked at."""
        unfit = await self._prepare(batch)
        futures: list[asyncio.Future[Accepted] | Exception] = []
        for job in batch:
            try:
                futures.append(self._add(job, unfit, self._many))
            except SelfhealError as error:
                futures.append(error)
        return [await _answer(future) for future in futures]

    async def _prepare(self, batch: Sequence[NewJob]) -> dict[str, int]:
        """The types that do not fit. From here on no beat confirms the ids of `batch`, although it may come long
        before their commit; once they are in a batch of inserts, `_insert` sees to them."""
        ids = [job.job_id for job in batch]
        self._publisher.expect(ids)
        try:
            return await self._admission.prepare({job.job_type for job in batch})
        except BaseException:
            self._publisher.forget(ids)
            raise

    def _add(
        self, job: NewJob, unfit: dict[str, int], batches: Batcher[NewJob, Accepted]
    ) -> asyncio.Future[Accepted]:
        """Into its batch; what is refused is no longer expected."""
        try:
            self._check_room()
            self._admission.check(job, unfit)
        except BaseException:
            self._publisher.forget((job.job_id,))
            raise
        return batches.add(job)

    def _check_room(self) -> None:
        singles, many = self._singles, self._many
        if (
            singles.pending + many.pending >= MAX_WAITING
            or singles.pending_bytes + many.pending_bytes >= MAX_WAITING_BYTES
        ):
            raise Exhausted(
                "too many submits wait for the database",
                reason="TOO_MANY_REQUESTS",
                retry_after=RETRY_AFTER,
                metadata={"limit": str(MAX_WAITING)},
            )

    async def _insert(self, batch: Sequence[NewJob]) -> Sequence[Accepted | Exception]:
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
        fresh = [job for job, answer in zip(batch, answers, strict=True) if _is_new(answer)]
        if session is not None:
            if len(fresh) < len(batch):
                publisher.forget(set(ids).difference(job.job_id for job in fresh))
            if fresh:
                fresh.sort(key=lambda job: job.job_id.int)
                publisher.send([Dispatch(self._token(job)) for job in fresh])
        self._count(batch, fresh)
        return answers

    def _count(self, batch: Sequence[NewJob], fresh: Sequence[NewJob]) -> None:
        accepted = Tally(job.job_type for job in fresh)
        for job_type, ended in Tally(job.job_type for job in batch).items():
            self._admission.backlog.came(job_type, ended, accepted[job_type])
            if accepted[job_type]:
                self._submitted_of(job_type).inc(accepted[job_type])

    def _token(self, job: NewJob) -> Token:
        trace = self._tracing.publish(job.job_type, job.job_id, job.trace)
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
        await asyncio.gather(self._singles.drain(), self._many.drain())


def _is_new(answer: Accepted | Exception) -> bool:
    return isinstance(answer, Accepted) and not answer.existed


async def _answer(future: asyncio.Future[Accepted] | Exception) -> Accepted | Exception:
    if isinstance(future, Exception):
        return future
    try:
        return await future
    except Exception as error:
        return error
