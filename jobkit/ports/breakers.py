"""Breakers: hot shared state, and the ledger of what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Protocol

from jobkit.domain.attempts import Position, Raw
from jobkit.domain.breaker import BreakerRecord, Evidence, Outcome, Window


class BreakerStore(Protocol):
    """Shared breaker state. It stores and compares; `domain.tripping` decides. Its clock is the store's.
    A breaker that does not exist counts as CLOSED of generation 0."""

    async def now(self) -> int:
        """The store's time in milliseconds."""

    async def read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        """The records of those breakers that exist, in one round trip."""

    async def create(self, name: str) -> None:
        """Make a CLOSED breaker of generation 0 exist; keeps one that does."""

    async def report(self, name: str, evidence: Evidence, sample: int, window: int) -> Window:
        """Add evidence (dropped when its generation is not the current one) and return the window of the
        last `window` ms with at most `sample` recent outcomes, after the addition. Atomic. Outcomes that are ignored
        are only logged."""

    async def window(self, name: str, sample: int, window: int) -> Window:
        """The window without adding to it."""

    async def swap(
        self, name: str, generation: int, record: BreakerRecord, probe: Outcome | None = None
    ) -> bool:
        """Replace the record if its generation is still `generation` and the new one is greater (or the same
        with more successes); a record of a CLOSED state also forgets all evidence. False: somebody else was
        first. Bumps the change counter and tells watchers. `breaker:<name>` and `failure:*` are written
        beside it. `probe` is the attempt that led to it, for the log."""

    async def take_permit(
        self, name: str, generation: int, holder: str, permits: int, lease: timedelta
    ) -> bool:
        """One of `permits` leased probe permits of this generation, if one is free."""

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        """Give a permit back; nothing happens when it is not held."""

    async def eject(self, name: str, generation: int, worker: str, limit: int, lease: timedelta) -> bool:
        """Put a worker out of the breaker's jobs for `lease`, unless `limit` others are out already or the generation
        is another one. Again for one that is out: its lease begins anew. Ejections outlive generations."""

    async def readmit(self, name: str, worker: str, trial: Outcome | None = None) -> None:
        """End a worker's ejection, and forget its part in the recent outcomes: it starts anew. `trial`
        is the attempt that led to it, for the log."""

    async def version(self) -> int:
        """The change counter: it moves with every swap and create, and maybe without; a wipe resets it."""

    async def failures(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """For display: failed attempts by code within the window last reported with, in one round trip. Only
        names that have any, so a caller sums or lists what is there."""

    async def repair(self, names: Sequence[str]) -> None:
        """Write the operator-readable copies anew where they differ from the truth, and nothing else."""

    async def log(self, name: str, limit: int) -> list[Raw]:
        """The oldest entries of the breaker's attempt log that nobody took yet: reports, swaps and readmissions, in
        the order in which they were taken in. Bounded: what nobody takes in time is lost, the oldest first."""

    async def forget_log(self, name: str, upto: Position) -> None:
        """These are recorded elsewhere now, up to this one."""

    def changes(self) -> AsyncIterator[str]:
        """Names of breakers as they change from this call until `close`, hurried by push; may miss some, so
        poll `version` too."""

    async def close(self) -> None:
        """Safe to repeat."""


class Ledger(Protocol):
    """Every breaker transition, in commit order, and the holds that follow from it."""

    async def record(self, record: BreakerRecord) -> int:
        """Insert the record's transitions that are missing (unique by breaker, scope and generation), open or close
        the breaker's incident, set or lift the type's hold to match the record unless a newer generation did, and
        return the ledger's revision. Idempotent. A record whose newest transition has the scope of one worker is
        that worker's own: only transitions of that scope are inserted, and there is neither hold nor incident."""

    async def heads(self, names: Sequence[str]) -> dict[str, int]:
        """The newest fleet generation of those breakers that the ledger knows: cheap enough for every second."""

    async def latest(self, names: Sequence[str] | None = None) -> dict[str, BreakerRecord]:
        """These breakers (all when None) as their last 16 fleet transitions tell them, with what the newest led to
        (open until when, forced by hand, reopened how often): what a wiped breaker store is rebuilt from."""
