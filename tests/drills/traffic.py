"""Jobs that come in while a drill goes on, and how long they wait; what the ledger tells afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from jobkit import TransientError
from jobkit.domain.breaker import BreakerState
from jobkit.domain.job import Job
from jobkit.domain.ledger import Entry
from jobkit.handling import JobContext
from tests.drills.dependency import Dependency, Refused
from tests.drills.figures import Drill, percentile
from tests.integration.stage import Stage, Trade

# What the drills run with: healing in seconds.
COOLDOWN, MAX_COOLDOWN = 2.0, 4.0
BRISK = {
    "COOLDOWN_PERIOD": str(COOLDOWN),
    "MAX_COOLDOWN": str(MAX_COOLDOWN),
    "RETRY_DELAY_MS": "1000",
    "MAX_RETRY_DELAY_MS": "4000",
}
# A quiet type's latency is "unchanged" within what the machine's own noise makes of it.
SAME, SAME_SECONDS = 1.5, 0.02
READ_SIZE = 1000


def calling(
    dependency: Dependency, who: str = "", blames: str | None = None
) -> Callable[..., Awaitable[None]]:
    """A handler's act: one call; a refusal is a transient failure, of the dependency `blames` if given."""

    async def act(job: JobContext) -> None:
        try:
            await dependency.call(who, job.job_id)
        except Refused as refusal:
            raise TransientError(refusal.code, dependency=blames) from None

    return act


def trade(job_type: str, act: Callable[..., Awaitable[None]], **options: object) -> Trade:
    """A handler that does `act`."""
    made = Trade(job_type, **options)
    made.act = act  # type: ignore[assignment]
    return made


@dataclass
class Traffic:
    """Submits `rate` jobs a second of a type of its own while entered, and remembers how long each waited until its
    handler began (seconds): on workers that serve one of `trades()`."""

    stage: Stage
    job_type: str
    rate: float
    waits: list[tuple[float, float]] = field(default_factory=list)  # submitted at (Unix time), waited
    _sent: dict[str, float] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    def trade(self) -> Trade:
        async def act(job: JobContext) -> None:
            sent = float(job.payload["at"])
            self.waits.append((sent, time.time() - sent))

        return trade(self.job_type, act)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            next_at = max(next_at + 1 / self.rate, loop.time())
            await self.stage.submit(self.job_type, {"at": time.time()})
            await asyncio.sleep(max(next_at - loop.time(), 0))

    def between(self, since: float, until: float) -> list[float]:
        return [waited for sent, waited in self.waits if since <= sent < until]


async def submit_over(stage: Stage, job_type: str, count: int, seconds: float, batch: int = 50) -> list[UUID]:
    """`count` jobs, spread evenly over so many seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    ids: list[UUID] = []
    while len(ids) < count:
        ids += await stage.submit_many(job_type, min(batch, count - len(ids)))
        await asyncio.sleep(max(began + seconds * len(ids) / count - loop.time(), 0))
    return ids


async def read_all(stage: Stage, ids: Sequence[UUID]) -> list[Job]:
    """All of them, some at a time."""
    jobs: list[Job] = []
    for start in range(0, len(ids), READ_SIZE):
        jobs += (await stage.world.reader.get(ids[start : start + READ_SIZE])).values()
    return jobs


async def until(holds: Callable[[], bool], patience: float, look: float = 0.02) -> bool:
    """Whether it came to hold within so many seconds, looking every `look`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not holds():
        if loop.time() > end:
            return False
        await asyncio.sleep(look)
    return True


@dataclass(frozen=True)
class Story:
    """A breaker's moves in the ledger, oldest first. Times are Unix seconds: the servers run on this machine."""

    moves: tuple[Entry, ...]

    def times(self, to: BreakerState, came_from: BreakerState | None = None) -> list[float]:
        return [
            entry.move.at / 1000
            for entry in self.moves
            if entry.move.to_state is to and came_from in (None, entry.move.from_state)
        ]

    @property
    def opened(self) -> list[float]:
        """Openings of a closed breaker: a failed probe is none."""
        return self.times(BreakerState.OPEN, BreakerState.CLOSED)

    @property
    def closed(self) -> list[float]:
        return self.times(BreakerState.CLOSED)

    @property
    def times_of_probes(self) -> list[float]:
        return self.times(BreakerState.HALF_OPEN)

    @property
    def probes(self) -> int:
        return len(self.times_of_probes)


async def story(stage: Stage, breaker: str) -> Story:
    """What the ledger has of it. Workers record their moves every half a second."""
    await asyncio.sleep(1.2)
    page = await stage.world.history.page(breaker, 1000, None)
    return Story(
        tuple(sorted((e for e in page if not e.move.scope), key=lambda entry: entry.move.generation))
    )


def unharmed(drill: Drill, name: str, before: Sequence[float], during: Sequence[float]) -> None:
    """Another type's latency, in the median and at the 95th percentile."""
    for percent in (50, 95):
        was, is_ = percentile(before, percent), percentile(during, percent)
        drill.at_most(f"{name}: p{percent} wait", is_ * 1000, (was * SAME + SAME_SECONDS) * 1000, " ms")
