"""What can be asked of jobs: one object behind gRPC, REST and the shim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from jobapi.submit import Submitter
from jobapi.waiting import Waiters
from jobkit.domain.asked import page_size
from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Job, NewJob
from jobkit.domain.submit import Submit, check_submit
from jobkit.host.channels import CANCELS, ENDED
from jobkit.host.world import World, new_id
from jobkit.ports import Accepted, Dispatch
from jobkit.runtime.publisher import Publisher
from jobkit.tally import Counts

MAX_BATCH = 10_000
DEFAULT_PAGE = 50
DEFAULT_WAIT = timedelta(seconds=30)
MAX_WAIT = timedelta(seconds=300)


class Jobs:
    """The use cases. Raises the errors of `domain.errors`."""

    def __init__(
        self,
        world: World,
        submitter: Submitter,
        waiters: Waiters,
        publisher: Publisher,
        finished: Counts,
        max_payload: int,
    ) -> None:
        self._world = world
        self._submitter = submitter
        self._waiters = waiters
        self._publisher = publisher
        self._finished = finished
        self.max_payload = max_payload

    async def submit(self, submit: Submit) -> tuple[Job, bool]:
        """The job as recorded, and whether its request_id had been seen before."""
        new = self._new(submit)
        accepted = await self._submitter.submit(new)
        return (await self._told([new], [accepted]))[0], accepted.existed

    async def submit_many(self, batch: Sequence[Submit | Exception]) -> list[tuple[Job, bool] | Exception]:
        """Item by item, in order."""
        if not 1 <= len(batch) <= MAX_BATCH:
            raise InvalidJob([FieldViolation("requests", f"must hold 1 to {MAX_BATCH} items")])
        checked = [self._checked(item) for item in batch]
        good = [new for new in checked if isinstance(new, NewJob)]
        answers = await self._submitter.submit_many(good) if good else []
        accepted = [(n, a) for n, a in zip(good, answers, strict=True) if isinstance(a, Accepted)]
        jobs = iter(await self._told([n for n, _ in accepted], [a for _, a in accepted]))
        told = iter((next(jobs), a.existed) if isinstance(a, Accepted) else a for a in answers)
        return [next(told) if isinstance(new, NewJob) else new for new in checked]

    def _checked(self, item: Submit | Exception) -> NewJob | Exception:
        if isinstance(item, Exception):
            return item
        try:
            return self._new(item)
        except InvalidJob as error:
            return error

    def _new(self, submit: Submit) -> NewJob:
        trace = self._world.tracing.begin(submit.trace)
        traced = submit if trace is submit.trace else replace(submit, trace=trace)
        return check_submit(traced, new_id(), self.max_payload)

    async def _told(self, batch: Sequence[NewJob], accepted: Sequence[Accepted]) -> list[Job]:
        """Jobs for the answers. A new one is told as it was written; only earlier ones are read back."""
        earlier = [a.job_id for a in accepted if a.existed]
        found = await self._world.reader.get(earlier) if earlier else {}
        return [
            found[a.job_id] if a.existed and a.job_id in found else self._submitter.as_recorded(new)
            for new, a in zip(batch, accepted, strict=True)
        ]

    async def get(self, job_id: UUID) -> Job:
        job = (await self._world.reader.get([job_id])).get(job_id)
        if job is None:
            raise NotFound("job", str(job_id))
        return job

    async def wait(self, job_id: UUID, timeout: timedelta | None) -> Job:
        return await self._waiters.wait(job_id, min(DEFAULT_WAIT if timeout is None else timeout, MAX_WAIT))

    async def list(
        self, query: JobFilter, asked: int, after: PageToken | None
    ) -> tuple[list[Job], PageToken | None]:
        return await self._world.reader.page(query, page_size(asked, DEFAULT_PAGE), after)

    async def cancel(self, job_id: UUID) -> Job:
        job, ended = await self._world.steering.cancel(job_id)
        if ended:
            self._finished.labels(job.job_type, "cancelled").inc()
        await self._world.signals.send(ENDED if job.settled else CANCELS, [job_id])
        return job

    async def retry(self, job_id: UUID, payload: bytes | None) -> Job:
        if payload is not None and len(payload) > self.max_payload:
            rule = f"must be at most {self.max_payload} bytes as JSON"
            raise InvalidJob([FieldViolation("payload", rule)], reason="PAYLOAD_TOO_LARGE")
        async with self._publisher.taking():
            job, token = await self._world.steering.retry(job_id, payload, self._publisher.session)
            if token is not None:
                self._publisher.expect([job_id])
        if token is not None:
            self._publisher.send([Dispatch(token)])
        return job

    async def discard(self, job_id: UUID) -> Job:
        job, ended = await self._world.steering.discard(job_id)
        if ended:
            self._finished.labels(job.job_type, "discarded").inc()
        await self._world.signals.send(ENDED, [job_id])
        return job

    def note(self, job: Job) -> str:
        """What a reader should know about a job that waits."""
        if job.state.waiting and not self._submitter.types.served(job.job_type):
            return f"no live worker serves job type '{job.job_type}'"
        return ""
