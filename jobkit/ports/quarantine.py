"""Quarantined jobs in bulk: groups of failures, discarding, redrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from jobkit.domain.filter import JobFilter
from jobkit.domain.job import Token
from jobkit.domain.redrive import NewRedrive, Redrive


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Quarantined jobs of one type that failed alike: `group` is `domain.failure.group_of`, `message` that of the
    newest of them, the times are when the first and the last of them were quarantined."""

    group: int
    job_type: str
    code: str
    message: str
    count: int
    first_time: datetime
    last_time: datetime
    sample_job_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class GroupToken:
    """Where a page of groups starts: behind this one. Groups may change places between pages as they grow."""

    count: int
    group: int


class Quarantine(Protocol):
    """What waits for a person, in bulk. Held jobs are not among it. A filter's state and reason are those of jobs
    that wait for a person, or none."""

    async def count(self, query: JobFilter, limit: int) -> dict[str, int]:
        """Matching jobs by type; no more than `limit` are counted in all."""

    async def discard(self, job_type: str, query: JobFilter, after: UUID, limit: int) -> list[UUID]:
        """Give up the first `limit` matching jobs of the type with ids above `after`; which, in order."""

    async def groups(self, query: JobFilter, size: int, after: GroupToken | None) -> list[FailureGroup]:
        """One page, the largest groups first."""

    async def group_new(self, limit: int) -> int:
        """Put jobs into their groups that an earlier release quarantined, up to `limit`; how many."""


class Redrives(Protocol):
    """Redrives as rows. Whatever works on one does so in short transactions under the lock of its row, so that any
    number of control planes share them, and one that dies leaves nothing behind but what it committed."""

    async def create(self, new: NewRedrive, limit: int) -> tuple[Redrive, bool]:
        """Begin one over the matching jobs quarantined until now; True when its request_id had been seen with the
        same content. Raises AlreadyExists, Exhausted when too many are running, Precondition beyond `limit` jobs."""

    async def get(self, redrive_id: UUID) -> Redrive:
        """Raises NotFound."""

    async def page(self, size: int, before: UUID | None) -> list[Redrive]:
        """Newest first, those with ids below `before`."""

    async def cancel(self, redrive_id: UUID, actor: str, reason: str) -> Redrive:
        """Nothing more is sent once this returns. Raises NotFound, Precondition when it has ended otherwise."""

    async def active(self) -> Sequence[tuple[UUID, str]]:
        """(redrive, job type) pairs with something left to do."""

    async def take(self, redrive_id: UUID, job_type: str, session: UUID, limit: int) -> list[Token]:
        """The next jobs, as many as the pace allows now and at most `limit`: QUEUED under `session`. None while the
        type is held, or somebody else is at it."""

    async def learn(self, redrive_id: UUID, job_type: str, limit: int) -> None:
        """Look at up to `limit` redriven jobs that had not ended: count what has, and adapt the pace."""

    async def finish(self, redrive_id: UUID) -> Redrive | None:
        """End it if nothing is left to send or to learn; the redrive when that has just happened."""
