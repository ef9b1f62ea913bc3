"""What the control plane shows to Prometheus: waiting jobs, counted at most every 15 s, and breaker states."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from jobkit.domain.breaker import BreakerRecord, BreakerState
from jobkit.host.world import World

COUNT_SECONDS = 15.0
_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Gauges:
    """`count` reads the database and sets the gauges of jobs; whoever reads breakers has `show` set theirs."""

    def __init__(self, world: World, registry: CollectorRegistry) -> None:
        self._world = world
        self._waiting = Gauge(
            "selfheal_jobs_waiting", "Unfinished jobs.", ["job_type", "state"], registry=registry
        )
        self._oldest = Gauge(
            "selfheal_oldest_waiting_seconds",
            "Age of the oldest job that could run.",
            ["job_type"],
            registry=registry,
        )
        self._state = Gauge(
            "selfheal_breaker_state", "0 closed, 1 half-open, 2 open.", ["breaker"], registry=registry
        )
        self._shown: set[str] = set()

    async def count(self) -> None:
        counts, oldest, now = await asyncio.gather(
            self._world.recovery.count_waiting(),
            self._world.recovery.oldest_waiting(),
            self._world.database.now(),
        )
        self._waiting.clear()
        for (job_type, state), number in counts.items():
            self._waiting.labels(job_type, state.lower()).set(number)
        self._oldest.clear()
        for job_type, due in oldest.items():
            self._oldest.labels(job_type).set(max(now - due, 0) / 1000)

    def show(self, standing: Mapping[str, BreakerRecord]) -> None:
        """These breakers exist, and stand so; any other one is gone."""
        for name in self._shown - set(standing):
            self._state.remove(name)
        for name, record in standing.items():
            self._state.labels(name).set(_VALUES[record.state])
        self._shown = set(standing)
