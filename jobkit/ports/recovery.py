"""What reconcilers do: find what nobody answers for, and remove what has had its time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

from jobkit.domain.job import Token
from jobkit.ports.dispatch import Undecodable
from jobkit.ports.jobs import Lease


class Rescued(NamedTuple):
    """What became of leases that ran out: tokens to publish, and by type how many cancelled jobs ended."""

    tokens: list[Token]
    ended: Mapping[str, int]


class Recovery(Protocol):
    """What the reconcilers do: find what nobody answers for, make it theirs, and publish it again. Each takes
    at most `limit` rows, locked so that two control planes never take the same."""

    async def take_overdue(self, session: UUID, limit: int) -> list[Token]:
        """Waiting rows that nobody answers for and whose time has come; now QUEUED under `session`."""

    async def take_orphans(self, session: UUID, silent: timedelta, limit: int) -> list[Token]:
        """QUEUED rows of publishers that stopped beating, from their confirmed_to on; now under `session`."""

    async def fronts(self, within: timedelta) -> dict[str, int]:
        """By type: the smallest due time that live workers are claiming now."""

    async def take_lost(self, session: UUID, job_type: str, due_before: int, limit: int) -> list[Token]:
        """Waiting rows of the type with a due time before `due_before`; now under `session` and due now, so
        that each is published again once and not on every pass."""

    async def oldest_waiting(self) -> dict[str, int]:
        """By type with waiting rows whose time has come: the smallest due time."""

    async def expired(self, limit: int) -> list[Lease]:
        """RUNNING rows whose lease has run out although it could have been renewed: they can be written now."""

    async def rescue(self, session: UUID, leases: Sequence[Lease]) -> Rescued:
        """Those still unrenewed go back to QUEUED under `session`, one loss more, or end if they were cancelled."""

    async def waiting_pages(self, limit: int) -> AsyncIterator[list[tuple[Token, int]]]:
        """All that waits with its remaining delay in ms, in order, in pages: to fill volatile queues. Running
        rows are released first; call it only when no worker can be alive."""

    async def count_waiting(self) -> dict[tuple[str, str], int]:
        """Rows that wait or run or are quarantined, by (type, state); held ones count as "HELD"."""

    async def file_undecodable(self, messages: Sequence[Undecodable]) -> None:
        """Keep messages that no worker could decode, for a person."""


@dataclass(frozen=True, slots=True)
class Ages:
    """How old rows may get, in milliseconds: finished jobs; quarantined ones, the ledger, incidents, faults and filed
    messages; how far the claims of workers had come that are gone; what these workers served."""

    finished_ms: int
    quarantined_ms: int
    silent_ms: int = 3_600_000
    gone_ms: int = 86_400_000


@dataclass(frozen=True, slots=True)
class PurgeStep:
    """What one step removed, and where the next goes on: None at the end of what is old."""

    removed: int
    after: UUID | None


@dataclass(frozen=True, slots=True)
class RecordStep:
    """The same for the ledger, whose order is its revisions."""

    removed: int
    after: int | None


class Retention(Protocol):
    """Rows that have had their time."""

    async def purge(self, after: UUID, ages: Ages, limit: int) -> PurgeStep:
        """Look at up to `limit` jobs with ids above `after`, oldest first, and remove those that are too old,
        with their labels and idempotency keys."""

    async def purge_records(self, ages: Ages, limit: int) -> int:
        """Remove what is too old of incidents (up to `limit`), of injected faults, of filed messages and of what
        workers left."""

    async def purge_ledger(self, after: int, ages: Ages, limit: int) -> RecordStep:
        """Look at up to `limit` ledger entries with revisions above `after`, oldest first, and remove those that
        are too old, but for the newest of each breaker: it is rebuilt from them."""

    async def idle_types(self, older_than_ms: int) -> list[str]:
        """Types made that long ago of which there is no job, and which are not held."""

    async def drop_type(self, job_type: str) -> bool:
        """Forget a type, unless a job of it has come meanwhile."""

    async def unlisted_types(self) -> list[str]:
        """Types of jobs that the catalog does not have: a job may come in the very moment in which its type is
        forgotten."""
