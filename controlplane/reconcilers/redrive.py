"""Redrives: sends quarantined jobs back to work, type by type, at each redrive's pace.

All that must not be lost is in the database, changed in short transactions: a control plane that dies in the middle
leaves rows QUEUED under its session, which another publishes, and a redrive that another goes on with.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from uuid import UUID

from prometheus_client import CollectorRegistry, Gauge

from jobkit.host.world import World
from jobkit.ports import Dispatch
from jobkit.runtime.publisher import Publisher

_log = logging.getLogger(__name__)

BATCH = 500
# A fast redrive must not keep others waiting: so many batches of one type, then the next.
BATCHES = 4
LOOK = 1_000
RATE_SECONDS = 5.0
# Where nothing is being redriven, a look so often.
IDLE_SECONDS = 1.0


class Redriving:
    """Run `work` several times a second: what is due since the last time is sent, a second's worth at most."""

    def __init__(self, world: World, publisher: Publisher, registry: CollectorRegistry) -> None:
        self._world = world
        self._redrives = world.redrives
        self._publisher = publisher
        self._sent: deque[tuple[float, str, int]] = deque()
        self._idle_until = 0.0
        self._rate = Gauge(
            "selfheal_redrive_rate",
            f"Quarantined jobs a second that this process sends back, over {RATE_SECONDS:g} s.",
            ["job_type"],
            registry=registry,
        )

    async def work(self) -> None:
        """One round over everything that has something left to do."""
        if time.monotonic() < self._idle_until:
            self._tell_rates()
            return
        parts = await self._redrives.active()
        if not parts:
            self._idle_until = time.monotonic() + IDLE_SECONDS
        for redrive_id, job_type in parts:
            await self._redrives.learn(redrive_id, job_type, LOOK)
            for _ in range(BATCHES):
                if await self._send(redrive_id, job_type) < BATCH:
                    break
        for redrive_id in dict.fromkeys(redrive_id for redrive_id, _ in parts):
            await self._finish(redrive_id)
        self._tell_rates()

    async def group(self) -> None:
        """Put what an earlier release quarantined into its groups. There is nothing to do from then on."""
        while await self._world.quarantine.group_new(BATCH) == BATCH:
            pass

    async def _send(self, redrive_id: UUID, job_type: str) -> int:
        """Only while the broker is there: jobs that cannot be published had better stay in quarantine."""
        if not self._publisher.open:
            return 0
        async with self._publisher.taking():
            tokens = await self._redrives.take(redrive_id, job_type, self._publisher.session, BATCH)
            self._publisher.expect(token.job_id for token in tokens)
        if tokens:
            self._sent.append((time.monotonic(), job_type, len(tokens)))
            await self._publisher.publish([Dispatch(token) for token in tokens])
        return len(tokens)

    async def _finish(self, redrive_id: UUID) -> None:
        ended = await self._redrives.finish(redrive_id)
        if ended is not None:
            counts = ended.counts
            _log.warning(
                "redrive %s is %s%s: %d of %d jobs sent back, %d succeeded, %d failed again",
                redrive_id,
                ended.state,
                f" ({ended.end_reason})" if ended.end_reason else "",
                counts.redriven,
                counts.total,
                counts.succeeded,
                counts.failed,
            )

    def _tell_rates(self) -> None:
        now = time.monotonic()
        while self._sent and self._sent[0][0] < now - RATE_SECONDS:
            _, job_type, _ = self._sent.popleft()
            self._rate.labels(job_type).set(0)
        sums: dict[str, int] = {}
        for _, job_type, count in self._sent:
            sums[job_type] = sums.get(job_type, 0) + count
        for job_type, count in sums.items():
            self._rate.labels(job_type).set(count / RATE_SECONDS)
