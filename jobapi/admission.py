"""What is let in: types within their bound, backlogs with room, breakers that a caller does not want to wait for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from jobapi.backlog import Backlog
from jobapi.types import Types, too_many_types
from jobkit.domain.errors import Unavailable
from jobkit.domain.job import NewJob, OnOpen
from jobkit.runtime.clock import DatabaseClock


class Admission:
    """`prepare` once for all the types of a call, then `check` each job."""

    def __init__(self, types: Types, backlog: Backlog, clock: DatabaseClock) -> None:
        self.types = types
        self.backlog = backlog
        self._clock = clock

    async def prepare(self, names: Iterable[str]) -> dict[str, int]:
        """Insert types on first sight; those that did not fit, with the limit. Raises Unavailable."""
        return await self.types.ensure(names)

    def check(self, job: NewJob, unfit: dict[str, int]) -> None:
        """Let `job` in; `backlog.came` must follow. Raises Exhausted (one type too many, a full backlog);
        Unavailable for on_open=REJECT while the type is held, but not once the open time has passed: then this
        job is the probe."""
        if job.job_type in unfit:
            raise too_many_types(job.job_type, unfit[job.job_type])
        wait = None
        if job.on_open is OnOpen.REJECT:
            wait = self.types.rejected_for(job.job_type, self._clock.now())
        if wait is not None:
            raise breaker_open(job.job_type, self.types.holder(job.job_type), wait)
        self.backlog.let_in(job.job_type)


def breaker_open(job_type: str, breaker: str, wait: timedelta) -> Unavailable:
    """The type is held by `breaker`, its own or that of a dependency, for about `wait`."""
    return Unavailable(
        f"job type '{job_type}' is held: breaker '{breaker}' is open",
        reason="BREAKER_OPEN",
        retry_after=wait,
        metadata={"breaker": breaker, "jobType": job_type},
    )
