"""(a) Ten thousand jobs of one type arrive while what they need is down; other types flow. Then it heals.

The dependency serves 150 calls a second, turns away what comes above it at once, and is knocked over again by twice
as much. Cold: its type has never run before. Warm: after two minutes of 100 jobs a second."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from jobkit.domain.job import Job, JobState
from tests.drills.dependency import Call, bad, good
from tests.drills.figures import Drill, percentile
from tests.drills.flood import Flood
from tests.drills.outage import (
    CAPACITY,
    DOWN,
    JOBS,
    OUTAGE_SECONDS,
    SUBMITTING_SECONDS,
    UP,
    WORKERS,
    frail,
    patience,
    rates,
    served,
)
from tests.drills.traffic import (
    BRISK,
    Story,
    Traffic,
    calling,
    read_all,
    story,
    submit_over,
    trade,
    unharmed,
    until,
)
from tests.integration.stage import Place, Stage

WARM_SECONDS, WARM_RATE = 120.0, 100.0
MOST_WASTED = {"cold": 10, "warm": 25}


@dataclass(slots=True)
class Seen:
    """What happened: Unix times, and everything that is left of it."""

    fell: float
    healed: float
    calls: list[Call]
    told: Story
    jobs: list[Job]
    drained: bool
    collapses: int


@pytest.mark.parametrize("start", ["cold", "warm"])
async def test_a_outage(place: Place, drill: Drill, scale: float, start: str) -> None:
    email = place.type("email")
    dependency, jobs = frail(), round(JOBS * scale)
    async with Stage(place) as stage:
        await stage.jobapi()
        others = [Traffic(stage, place.type(name), 20) for name in ("sms", "push")]
        for number in range(WORKERS):
            trades = [trade(email, calling(dependency, f"w{number}")), *(other.trade() for other in others)]
            await stage.worker(*trades, **BRISK)
        flood = Flood(place, email, jobs, SUBMITTING_SECONDS)
        await flood.ready()
        async with others[0], others[1]:
            await asyncio.sleep(2)
            calm = time.time()
            await asyncio.sleep(6)
            warmed: Sequence[object] = ()
            if start == "warm":
                seconds = WARM_SECONDS * scale
                warmed = await submit_over(stage, email, round(WARM_RATE * seconds), seconds, batch=5)
            fell = time.time()
            dependency.weather = DOWN
            ids = await flood.submit()
            await asyncio.sleep(max(fell + OUTAGE_SECONDS - time.time(), 0))
            dependency.weather = UP
            healed = time.time()
            wanted = {str(job_id) for job_id in ids}
            drained = await until(
                lambda: served(dependency, healed, wanted) >= len(wanted), patience(jobs), 1.0
            )
            over = time.time()
            await asyncio.sleep(2)
            told = await story(stage, email)
            found = await read_all(stage, ids)
    seen = Seen(fell, healed, dependency.calls, told, found, drained, dependency.collapses)
    drill.tell("jobs", f"{len(ids)}, after {len(warmed)}")
    judge_waste(drill, seen, MOST_WASTED[start])
    judge_jobs(drill, seen)
    before = [wait for other in others for wait in other.between(calm, fell)]
    during = [wait for other in others for wait in other.between(fell, over)]
    unharmed(drill, "other types", before, during)
    flooded = [w for other in others for w in other.between(fell, fell + SUBMITTING_SECONDS)]
    drill.tell("other types: p95 wait while the jobs came in", f"{percentile(flooded, 95) * 1000:.0f} ms")
    judge_drain(drill, seen)
    drill.judge()


def judge_waste(drill: Drill, seen: Seen, mark: int) -> None:
    """Calls during the outage, but for those in flight when the deciding failure came, and the probes."""
    outage = [call for call in bad(seen.calls) if seen.fell <= call.began < seen.healed]
    opened = seen.told.opened[0] if seen.told.opened else seen.healed
    # In flight: what had begun and not failed yet when the last failure of the mark came in.
    ends = sorted(call.ended for call in outage)
    decided = ends[mark - 1] if len(ends) >= mark else opened
    in_flight = sum(call.began < decided < call.ended for call in outage)
    probes = sum(seen.fell <= at < seen.healed for at in seen.told.times_of_probes)
    drill.at_most("calls wasted, + in-flight + probes", len(outage), mark + in_flight + probes)
    drill.tell("of them in flight, probes", f"{in_flight}, {probes}")
    drill.tell("seconds from the first failure until open", opened - min(ends, default=opened))


def judge_jobs(drill: Drill, seen: Seen) -> None:
    runs = Counter(call.key for call in seen.calls)
    burned = sum(max(job.attempts - runs[str(job.job_id)], 0) for job in seen.jobs)
    drill.exactly("attempts burned by holds", burned, 0)
    drill.tell("most attempts of a job", max(job.attempts for job in seen.jobs))
    dead = sum(job.state in {JobState.QUARANTINED, JobState.DISCARDED} for job in seen.jobs)
    drill.exactly("dead jobs", dead, 0)
    left = sum(job.state is not JobState.SUCCEEDED for job in seen.jobs)
    drill.exactly("jobs not done", left, 0)


def judge_drain(drill: Drill, seen: Seen) -> None:
    """From the first good probe to the last good call, against the least that the capacity allows."""
    wanted = {str(job.job_id) for job in seen.jobs}
    after = [call for call in seen.calls if call.began >= seen.healed]
    done = [call for call in good(after) if call.key in wanted]
    drill.exactly("drained", int(seen.drained), 1)
    if not done:
        return
    first, last = done[0].began, max(call.ended for call in done)
    least = len(done) / CAPACITY
    drill.at_most("drain, of the least time", (last - first) / least, 1.15, " x")
    drill.tell("drain", f"{last - first:.1f} s of at least {least:.1f} s")
    refused = [call for call in bad(after) if call.began >= first]
    drill.at_most("calls refused in the drain, of the backlog", len(refused) / len(wanted) * 100, 2, " %")
    drill.exactly("openings after it healed", sum(at > first for at in seen.told.opened), 0)
    drill.exactly("collapses of the dependency", seen.collapses, 0)
    drill.tell("good calls a second, by second", rates(done, first))
