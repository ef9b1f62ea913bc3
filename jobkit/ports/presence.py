"""Job types, and the processes that publish and work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's, standing now. Times are database milliseconds; `until` None: until it is lifted."""

    actor: str
    reason: str
    since: int
    until: int | None = None


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """A job type. `hold_number` grows with each hold; times are database milliseconds. `held` is what its breaker
    does; `slot_limit` is how many attempts an operator lets the whole fleet run at once; `revision` grows with
    whatever an operator does to a type."""

    job_type: str
    hold_number: int = 0
    held: bool = False
    held_since: int | None = None
    held_until: int | None = None
    held_breaker: str = ""
    pause: Pause | None = None
    slot_limit: int | None = None
    revision: int = 0

    @property
    def waits(self) -> bool:
        """Whether its jobs are held, for whatever reason."""
        return self.held or self.pause is not None

    @property
    def mark(self) -> int:
        """The hold mark of a job queued now: one queued during a hold counts that hold."""
        return self.hold_number - 1 if self.waits else self.hold_number


class TypeCatalog(Protocol):
    """The truth about job types."""

    async def ensure(self, names: Sequence[str], limit: int) -> list[str]:
        """Insert those unseen, up to `limit` types in all; returns those that did not fit."""

    async def all(self) -> dict[str, TypeInfo]: ...

    async def need(self, needs: Mapping[str, Sequence[str]]) -> None:
        """What the handlers of these types depend on now; the holds follow. To be repeated: what nobody announces is
        forgotten after a day, or after ten minutes when other handlers of the type announce something else."""

    async def breakers(self) -> list[str]:
        """The names of all breakers, sorted: types and dependencies."""


class TypeSteering(Protocol):
    """What operators do to job types: each returns the type as it is afterwards, keeps a record of who did it and
    why, and does nothing where nothing would change. Raises NotFound."""

    async def pause(self, job_type: str, actor: str, reason: str, until: int | None) -> TypeInfo:
        """Hold the type's jobs until somebody resumes it, or until `until` (database ms). Another pause replaces one
        that stands. Raises InvalidJob when `until` has passed."""

    async def resume(self, job_type: str, actor: str, reason: str) -> TypeInfo: ...

    async def limit(self, job_type: str, slots: int | None, actor: str, reason: str) -> TypeInfo:
        """The whole fleet runs at most `slots` attempts at once; None: as many as it can."""


class Sessions(Protocol):
    """Publishers and what they answer for. A row names its publisher's session; one row a second per publisher
    replaces a second write per job."""

    async def beat(self, session: UUID, component: str, confirmed_to: UUID | None) -> int:
        """I live, and tokens of ids below `confirmed_to` (None: all) are settled. Returns database ms."""

    async def orphan(self, session: UUID, ids: Sequence[UUID]) -> None:
        """The broker did not take these tokens: their waiting rows become nobody's, hence overdue."""

    async def leave(self, session: UUID) -> None:
        """A clean good-bye."""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker by its sign of life: what it serves ("*" for all), and when it last beat (database ms)."""

    worker_id: str
    serves: tuple[str, ...]
    beat_at: int


class Presence(Protocol):
    """Which workers live, what they serve and how far they are."""

    async def beat(self, worker_id: str, serves: Sequence[str], fronts: Mapping[str, int]) -> None:
        """`serves` lists job types, "*" for all; `fronts` the smallest due time (database ms) claimed since
        the last beat, by type."""

    async def leave(self, worker_id: str) -> None:
        """A clean good-bye."""

    async def serving(self, within: timedelta) -> dict[str, int]:
        """How many workers serve a type which beat `within`; under "*" those that serve every type."""

    async def served_types(self, within: timedelta) -> set[str]:
        """Types that a worker serves which beat `within`; "*" when one serves every type."""

    async def live(self, within: timedelta) -> list[LiveWorker]:
        """Workers that beat `within`, by name."""
