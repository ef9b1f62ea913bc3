"""(c) The dependency comes and goes: no opening more than there are falls."""

from __future__ import annotations

import asyncio

import pytest

from tests.drills.dependency import Dependency, Weather, bad
from tests.drills.figures import Drill
from tests.drills.traffic import BRISK, calling, read_all, story, submit_over, trade, until
from tests.integration.stage import Place, Stage

UP, DOWN = Weather(latency=0.02), Weather(down=True, fails_in=0.001)


@pytest.mark.parametrize("phase", [1.0, 4.0], ids=["every second", "every four seconds"])
async def test_c_flapping(place: Place, drill: Drill, scale: float, phase: float) -> None:
    email = place.type("email")
    dependency = Dependency(UP)
    phases = max(round(32 * scale / phase), 2)
    async with Stage(place) as stage:
        await stage.jobapi()
        for _ in range(2):
            await stage.worker(trade(email, calling(dependency), max_attempts=20), **BRISK)
        seconds = 2 * phases * phase
        submitting = asyncio.create_task(submit_over(stage, email, round(50 * seconds), seconds, batch=5))
        for _ in range(phases):
            dependency.weather = UP
            await asyncio.sleep(phase)
            dependency.weather = DOWN
            await asyncio.sleep(phase)
        dependency.weather = UP
        ids = await submitting
        done = await until(lambda: len({c.key for c in dependency.calls if not c.code}) >= len(ids), 60)
        told = await story(stage, email)
        jobs = await read_all(stage, ids)
    drill.at_most("openings", len(told.opened), phases + 1)
    drill.tell("probes", told.probes)
    drill.tell("calls wasted", len(bad(dependency.calls)))
    drill.exactly("all jobs done", int(done), 1)
    drill.tell("most attempts of a job", max(job.attempts for job in jobs))
    drill.judge()
