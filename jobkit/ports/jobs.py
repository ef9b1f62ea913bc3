"""Jobs in the database: accepting, running, reading and steering them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Attempt, ClaimedJob, Job, NewJob, Token
from jobkit.domain.lean import lean
from jobkit.domain.retry import Decision


@lean
@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to one submit: `existed` when its request_id had been seen before with the same content."""

    job_id: UUID
    existed: bool


class Intake(Protocol):
    """Accepting jobs."""

    async def insert(
        self, batch: Sequence[NewJob], *, session: UUID | None, now: int, marks: Mapping[str, int]
    ) -> list[Accepted | Exception]:
        """Insert in one commit, as QUEUED under the publisher `session`, or PENDING when it is None. `marks`
        gives each type's hold mark. Answers item by item: AlreadyExists, InvalidJob. Raises Unavailable, and
        then nothing may be called accepted."""


@lean
@dataclass(frozen=True, slots=True)
class Held:
    """A live claim as its worker holds it: the fence is `delivery`."""

    job_id: UUID
    delivery: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A RUNNING row whose lease has run out by database time."""

    held: Held
    lease_until: int


@lean
@dataclass(frozen=True, slots=True)
class Miss:
    """Why a token got no claim. `retry_in` is set when the token should come back after that time: the job
    runs elsewhere under a live lease, or is not due yet. None: the token has no job to run, drop it.
    `expired` when it runs under a lease that has run out: see `WorkStore.take_over`."""

    retry_in: timedelta | None
    expired: Lease | None = None


@lean
@dataclass(frozen=True, slots=True)
class Settlement:
    """What to write about one finished run. `at` is the fence, `entry` the attempt for the history."""

    at: Held
    decision: Decision
    history: tuple[Attempt, ...]
    session: UUID | None = None


class WorkStore(Protocol):
    """What a worker does to the rows of jobs. Every call carries the fence; a stale one changes nothing."""

    async def claim(
        self, ids: Sequence[UUID], *, claim_id: UUID, worker_id: str, lease: timedelta
    ) -> Mapping[UUID, ClaimedJob | Miss]:
        """Claim in one statement what waits. Repeating it with the same `claim_id` after a lost reply wins again."""

    async def take_over(
        self, expired: Lease, *, claim_id: UUID, worker_id: str, lease: timedelta
    ) -> ClaimedJob | Miss:
        """Claim a RUNNING job whose lease ran out, unless it was renewed since it was seen so: one loss more. Only
        for those who saw the database all through that lease: after an outage every lease looks expired.
        Repeatable as `claim`."""

    async def renew(self, held: Sequence[Held], *, lease: timedelta) -> tuple[set[UUID], set[UUID]]:
        """Extend leases; returns (still ours, of those: asked to cancel)."""

    async def mark_alone(self, held: Held) -> bool:
        """This claim runs with nothing beside it in its process: should it be lost, that counts as such. False: the
        claim is lost already."""

    async def progress(self, marks: Sequence[tuple[Held, int, int]]) -> None:
        """Record (processed, total) of running jobs."""

    async def settle(self, batch: Sequence[Settlement]) -> list[bool]:
        """Record outcomes in one commit; False: the claim was lost and nothing was written. Repeatable."""


class JobReader(Protocol):
    """Reading jobs, with holds applied: a held job reads as QUARANTINED."""

    async def get(self, ids: Sequence[UUID]) -> dict[UUID, Job]:
        """Those that exist."""

    async def page(
        self, query: JobFilter, size: int, after: PageToken | None
    ) -> tuple[list[Job], PageToken | None]:
        """One page, newest first, and where the next one starts."""

    async def count_waiting_of(self, names: Sequence[str], limit: int) -> dict[str, int]:
        """Waiting jobs of each type, counted up to `limit`."""


class Steering(Protocol):
    """What people do to single jobs. Each returns the job as it is afterwards; NotFound, Precondition."""

    async def cancel(self, job_id: UUID) -> tuple[Job, bool]:
        """And whether this call ended it: a running job is only asked to stop, and a repeat finds it ended."""

    async def retry(self, job_id: UUID, payload: bytes | None, session: UUID) -> tuple[Job, Token | None]:
        """Back to work; the token is to be published, or None for a held job whose place in line stays."""

    async def discard(self, job_id: UUID) -> tuple[Job, bool]:
        """And whether this call ended it."""
