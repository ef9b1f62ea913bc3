"""(b) A third of the calls fail and all of them take five times as long: what still works is used.

The dependency works on so many calls at once, so five times the latency is a fifth of its capacity; of that, 70 % can
be good calls. There is work for all of it, all the time."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.drills.dependency import Dependency, Weather, bad, good
from tests.drills.figures import Drill
from tests.drills.traffic import BRISK, calling, story, submit_over, trade
from tests.integration.stage import Place, Stage

PLACES, LATENCY, SLOWER, ERRORS = 24, 0.05, 5, 0.3


@pytest.mark.parametrize("workers", [4])
async def test_b_brown_out(place: Place, drill: Drill, scale: float, workers: int) -> None:
    email = place.type("email")
    healthy = Weather(latency=LATENCY)
    dependency = Dependency(healthy, places=PLACES)
    able = PLACES / (LATENCY * SLOWER) * (1 - ERRORS)
    seconds = 60 * scale
    async with Stage(place) as stage:
        await stage.jobapi()
        for _ in range(workers):
            await stage.worker(trade(email, calling(dependency), max_attempts=20), **BRISK)
        await submit_over(stage, email, round(50 * 10 * scale) + 100, 10 * scale + 2)
        dependency.weather = Weather(latency=LATENCY * SLOWER, error_rate=ERRORS)
        began = time.time()
        await submit_over(stage, email, round(1.6 * able * seconds), seconds * 0.9)
        await asyncio.sleep(max(began + seconds - time.time(), 0))
        ended = time.time()
        told = await story(stage, email)
        dependency.weather = healthy
    served = sum(call.ended < ended for call in good(dependency.between(began)))
    drill.at_least(
        "goodput, of what the dependency could do", served / (able * (ended - began)) * 100, 90, " %"
    )
    drill.tell("good calls a second", served / (ended - began))
    drill.tell("failed calls a second", len(bad(dependency.between(began, ended))) / (ended - began))
    drill.tell("openings", len(told.opened))
    drill.judge()
