"""Brings the attempt log from the breaker store to the database, and plays it again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controlplane.breakers import BreakerDesk
from jobkit.domain.attempts import Gap
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord
from jobkit.domain.errors import FieldViolation, InvalidJob, Precondition, Unavailable
from jobkit.domain.ledger import Incident, run_times
from jobkit.domain.policy import PolicyOverride, PolicySet, find_policy_faults
from jobkit.domain.retry import RetryPolicy
from jobkit.domain.simulation import Simulated, Stretch, simulate
from jobkit.host.world import World

_log = logging.getLogger(__name__)

RECORD_SECONDS = 10.0
BATCH = 2_000
# Entries and attempts that one simulation looks at.
MOST = 100_000
# How exactly (ms) the most recent part of the log is found that is no more than that.
STEP_MS = 1_000
# Jobs looked at for the estimate of what would have been held, for each opening.
COUNTED = 100_000
INCIDENTS = 1_000
HOUR = timedelta(hours=1)
RUN_TIMES = run_times(RetryPolicy())


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a candidate would have made of the range from `start` to `end` (store ms). `jobs_held` and
    `attempts_saved` are estimates by the formula of `domain.ledger`, from the jobs that were submitted while it would
    have been open; of openings that are in the ledger at least what their incidents say. Entries are missing in the
    `gaps`."""

    simulated: Simulated
    start: int
    end: int
    jobs_held: int
    attempts_saved: int
    log_start: int | None
    gaps: Sequence[Gap]


class Recorder:
    """`record` now and then; any number of replicas may."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def record(self) -> None:
        """All breakers, one after the other."""
        for name in await self._world.types.breakers():
            await self.drain(name)

    async def drain(self, name: str) -> None:
        """What the store has of one breaker."""
        while True:
            entries = await self._world.breakers.log(name, BATCH)
            if entries:
                upto = await self._world.attempts.put(name, entries)
                await self._world.breakers.forget_log(name, upto)
            if len(entries) < BATCH:
                return


class Simulator:
    """The use case; `base` is what the environment says, as it does to the workers."""

    def __init__(self, world: World, desk: BreakerDesk, base: BreakerPolicy) -> None:
        self._world = world
        self._desk = desk
        self._base = base
        self._recorder = Recorder(world)
        # A replay takes seconds of a processor: streams and calls go on beside one, not beside many.
        self._turn = asyncio.Lock()

    async def simulate(
        self, name: str, candidate: PolicyOverride, start: datetime | None, end: datetime | None
    ) -> Forecast:
        """The range is the last hour where it is not given, or as much of it as `MOST` allows. Raises NotFound,
        InvalidJob, Precondition when one that is given holds more than that."""
        await self._desk.know(name)
        policy = self._policy(name, candidate, await self._world.policies.current())
        since, until = await self._range(start, end)
        try:
            await self._recorder.drain(name)
        except Unavailable as error:
            _log.debug("simulating without the last seconds: %s", error)
        # What the window holds at the start was reported before it.
        scene = 2 * policy.failure_window
        lead = since - scene
        if await self._world.attempts.weigh(name, lead, until) > MOST:
            if start is not None:
                raise Precondition(
                    f"more than {MOST} attempts in this time: narrow it",
                    reason="TOO_MANY_ATTEMPTS",
                    metadata={"limit": str(MOST)},
                )
            lead = await self._earliest(name, lead, until)
            since = lead + min(scene, (until - lead) // 2)
        log = await self._world.attempts.read(name, lead, until)
        before = await self._world.attempts.standing(name, lead - 1) or BreakerRecord(name)
        async with self._turn:
            found = await asyncio.to_thread(simulate, policy, before, log, since)
        held, saved = await self._weigh(name, found.stretches, until)
        log_start = await self._world.attempts.oldest(name)
        gaps = await self._world.attempts.gaps(name, lead, until)
        return Forecast(found, since, until, held, saved, log_start, gaps)

    def _policy(self, name: str, candidate: PolicyOverride, policies: PolicySet) -> BreakerPolicy:
        """The candidate over what is in force."""
        wrong = [fault for fault in find_policy_faults(name, candidate) if fault.path != "breaker"]
        if wrong:
            raise InvalidJob(wrong)
        policy = replace(policies.resolve(self._base, name), **candidate.settings)
        return replace(policy, max_cooldown=max(policy.max_cooldown, policy.cooldown))

    async def _range(self, start: datetime | None, end: datetime | None) -> tuple[int, int]:
        now = await _now(self._world)
        until = min(now if end is None else _millis(end), now)
        since = until - _ms(HOUR) if start is None else _millis(start)
        if since >= until:
            raise InvalidJob([FieldViolation("start_time", "must lie before end_time, and in the past")])
        return since, until

    async def _earliest(self, name: str, start: int, end: int) -> int:
        """Since when `MOST` is enough: what is newest says most about now."""
        too_early, enough = start, end
        while enough - too_early > STEP_MS:
            middle = (too_early + enough) // 2
            if await self._world.attempts.weigh(name, middle, end) > MOST:
                too_early = middle
            else:
                enough = middle
        return enough

    async def _weigh(self, name: str, stretches: Sequence[Stretch], end: int) -> tuple[int, int]:
        jobs = attempts = 0
        incidents = await self._incidents(name) if stretches else {}
        for stretch in stretches:
            until = end if stretch.closed_at is None else stretch.closed_at
            held = saved = 0
            for arrivals in await self._world.attempts.arrivals(name, stretch.opened_at, until, COUNTED):
                waited = until - max(arrivals.at, stretch.opened_at)
                held += arrivals.jobs
                saved += arrivals.jobs * sum(begin <= waited for begin in RUN_TIMES)
            known = incidents.get(stretch.opened_at)
            jobs += max(held, known.jobs_held if known else 0)
            attempts += max(saved, known.attempts_saved if known else 0)
        return jobs, attempts

    async def _incidents(self, name: str) -> dict[int, Incident]:
        found = await self._world.history.incidents(name, open_only=False, size=INCIDENTS, before=None)
        return {incident.opened_at: incident for incident in found}


async def _now(world: World) -> int:
    """The breaker store's time, or the database's while that is away."""
    try:
        return await world.breakers.now()
    except Unavailable:
        return await world.database.now()


def _millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
