"""All that limits one lane beside its breakers: what its own type may do, and what each dependency still bears that
it shares with other types. A recovery belongs to the breaker that closed, so that three types behind one dependency
do not each look for its capacity by themselves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from worker.breaker import Breaker
from worker.limits import FleetLimits
from worker.runner import Ran

# Lanes that wait for the same start look again a little apart, in no order: none is always first.
APART_SECONDS = 0.002


class Ration:
    """`usage` tells (attempts of the lane that run, attempts that could); `pump` makes it start what it may."""

    def __init__(
        self,
        job_type: str,
        breakers: Sequence[Breaker],
        limits: FleetLimits,
        usage: Callable[[], tuple[int, int]],
        pump: Callable[[], None],
    ) -> None:
        self._pump = pump
        self._job_type = job_type
        self._breakers = tuple(breakers)
        self._own = limits.of(job_type)
        self._each = tuple(limits.of(breaker.name) for breaker in breakers)
        self._shared = tuple(allowance for allowance in self._each if allowance is not self._own)
        for allowance in self._each:
            allowance.lanes[job_type] = usage

    @property
    def paused(self) -> bool:
        return self._own.paused

    @property
    def share(self) -> int | None:
        """Slots that are ours; None: as many as the process has."""
        return min((a.share for a in self._each if a.share is not None), default=None)

    def heed(self, now: float) -> None:
        """One of the breakers has moved, or its policy has."""
        for allowance, breaker in zip(self._each, self._breakers, strict=True):
            allowance.heed(breaker, now)

    def wait(self, running: int, now: float) -> float:
        """Seconds until one more may start; 0: now, inf: not before something changes."""
        wait = self._own.quota.wait(running, now)
        for allowance in self._shared:
            if wait > 0:
                break
            wait = allowance.quota.wait(allowance.usage()[0], now)
            if wait == math.inf:
                allowance.in_line[self._job_type] = self._pump
            elif wait > 0:
                wait += random.uniform(0, APART_SECONDS)  # noqa: S311 - no secret
        return wait

    def on_start(self, now: float) -> None:
        for allowance in self._each:
            allowance.quota.on_start(now)

    def on_end(self, ran: Ran | None, now: float) -> None:
        """A slot is free (None: nothing ran with it): one of a dependency's goes to who has waited the longest. What
        failed on the type's own account is no word about a dependency."""
        if ran is not None:
            self._own.quota.on_end(ran.good, ran.took, now)
        for allowance in self._shared:
            if ran is not None:
                allowance.quota.on_end(ran.of(allowance.name), ran.took, now)
            allowance.call_next()
