"""The outage of drill (a), cold, as it goes on Celery with its retries: for comparison, without marks.

The jobs, their number, their pace, the outage, the dependency, the workers and their slots are those of drill (a).
The calls come over HTTP, because Celery's workers are processes of their own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.bench.peers.environments import NotInstalled
from tests.drills.celery_fleet import Retries, celery_fleet, environment
from tests.drills.dependency import Dependency, bad, good, serve
from tests.drills.figures import Drill
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
from tests.drills.traffic import until

SLOTS = 16  # a worker's, as ours have by default
# What its documentation shows; and with nothing given up, and the longest delay that ours has in these drills.
RETRIES = {"as documented": Retries(5, 600), "never giving up": Retries(None, 4)}


@pytest.mark.parametrize("retries", RETRIES)
async def test_a_outage_on_celery(rabbitmq_url: str, drill: Drill, scale: float, retries: str) -> None:
    try:
        environment()
    except NotInstalled as error:
        pytest.skip(f"Celery cannot be installed: {error}")
    dependency, jobs = frail(DOWN), round(JOBS * scale)
    wanted = {str(number) for number in range(jobs)}
    async with (
        serve(dependency) as url,
        celery_fleet(rabbitmq_url, url, RETRIES[retries]) as fleet,
    ):
        await fleet.start(WORKERS, SLOTS)
        fell = time.time()
        await fleet.submit(jobs, SUBMITTING_SECONDS)
        await asyncio.sleep(max(fell + OUTAGE_SECONDS - time.time(), 0))
        dependency.weather = UP
        healed = time.time()
        await until(lambda: _over(dependency, healed, wanted, RETRIES[retries]), patience(jobs), 1.0)
    _tell(drill, dependency, healed, wanted, RETRIES[retries])


def _dead(dependency: Dependency, wanted: set[str], retries: Retries) -> int:
    """Jobs that were never served and have used up their retries."""
    if retries.most is None:
        return 0
    done = {call.key for call in good(dependency.calls)}
    tried = Counter(call.key for call in bad(dependency.calls))
    return sum(tried[key] > retries.most for key in wanted - done)


def _over(dependency: Dependency, healed: float, wanted: set[str], retries: Retries) -> bool:
    return served(dependency, healed, wanted) + _dead(dependency, wanted, retries) >= len(wanted)


def _tell(drill: Drill, dependency: Dependency, healed: float, wanted: set[str], retries: Retries) -> None:
    done = sorted(good(dependency.calls), key=lambda call: call.ended)
    dead = _dead(dependency, wanted, retries)
    left = len(wanted) - served(dependency, healed, wanted) - dead
    drill.tell("jobs", len(wanted))
    drill.tell("calls wasted in the outage", len([c for c in bad(dependency.calls) if c.began < healed]))
    drill.tell("attempts burned, in all", len(bad(dependency.calls)))
    drill.tell("dead jobs", dead)
    drill.tell(f"not done {patience(len(wanted)):.0f} s after it healed", left)
    drill.tell("collapses of the dependency", dependency.collapses)
    if not done:
        return
    first, last = done[0].began, done[-1].ended
    least = len(done) / CAPACITY
    drill.tell("drain of those that were served", f"{last - first:.1f} s of at least {least:.1f} s")
    drill.tell("the same, of the least time", f"{(last - first) / least:.2f} x")
    drill.tell("good calls a second, by second", rates(done, first))
