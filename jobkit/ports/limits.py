"""Slots of the whole fleet: leased by workers in blocks, never acquired per job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jobkit.domain.budget import Account, Statement
from jobkit.domain.limit import LaneReport, Material, Plan, Share


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to one report. `share` is the worker's until its lease ends; None: the type has no limit any more.
    `material` is there for one reporter an epoch, who then makes the next plan."""

    share: Share | None
    material: Material | None = None


class LimitStore(Protocol):
    """It keeps who holds what and adds up what was done; `domain.limit` decides. Its clock is the store's. Atomic for
    each name, which is a job type or a dependency's breaker; never is more leased than the plan's limit, but for what
    runs when that shrinks."""

    async def report(self, worker: str, reports: Mapping[str, LaneReport]) -> dict[str, Grant]:
        """Report all types at once, in one round trip. A lease lasts `limit.LEASE_MS` from here."""

    async def plan(self, plans: Mapping[str, tuple[Plan, Mapping[str, Share], Material]]) -> None:
        """Put plans in force that were made of their `material`, one each by type; nothing happens to a type for
        which somebody else was faster."""

    async def spend(self, statements: Mapping[str, Statement]) -> dict[str, Account]:
        """Settle accounts with the fleet's retry budgets, in one round trip."""

    async def close(self) -> None:
        """Safe to repeat."""
