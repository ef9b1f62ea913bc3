"""What incidents amount to, and the counters made of it."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter

from jobkit.domain.ledger import Tally
from jobkit.ports import Sums

WEIGHED = 1_000_000  # jobs looked at behind one breaker
SHARE = 20  # a look that took long is not repeated before this many times as long
BATCH = 500


class Accountant:
    """Run both once a second. In several replicas each transition and each saved attempt is counted by one of them,
    so that a sum over replicas is right; what a process had counted when it died is gone with it, as ever."""

    def __init__(self, sums: Sums, registry: CollectorRegistry) -> None:
        self._sums = sums
        self._not_before = 0.0
        self._transitions = Counter(
            "selfheal_breaker_transitions_total",
            "Transitions of the fleet's breakers, by the state after.",
            ["breaker", "to"],
            registry=registry,
        )
        self._saved = Counter(
            "selfheal_attempts_saved_total",
            "Attempts that held jobs would have burned (estimated; see Incident).",
            ["job_type"],
            registry=registry,
        )

    async def weigh(self) -> None:
        """Raise the sums of open incidents."""
        began = time.monotonic()
        if began >= self._not_before:
            await self._sums.weigh(WEIGHED)
            ended = time.monotonic()
            self._not_before = ended + (ended - began) * SHARE

    async def count(self) -> None:
        """Add what nobody has counted."""
        while (tally := await self._sums.tally(BATCH)) != Tally():
            for (breaker, to), number in tally.transitions.items():
                self._transitions.labels(breaker, to).inc(number)
            for breaker, attempts in tally.saved.items():
                self._saved.labels(breaker).inc(attempts)
