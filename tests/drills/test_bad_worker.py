"""(d) One worker of four fails alone: it leaves the type, the fleet goes on, it comes back by itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.drills.dependency import Dependency, Weather, bad
from tests.drills.figures import Drill
from tests.drills.traffic import BRISK, calling, read_all, story, submit_over, trade, until
from tests.integration.stage import Place, Stage

THRESHOLD = 5


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_d_one_bad_worker_of_four(place: Place, drill: Drill, scale: float, concurrency: int) -> None:
    """The mark holds as it stands where calls are made one at a time; where sixteen are, some are in flight when the
    last failure that it takes comes in."""
    email = place.type("email")
    dependency = Dependency(Weather(latency=0.05))
    async with Stage(place) as stage:
        await stage.jobapi()
        apps = [
            await stage.worker(
                trade(email, calling(dependency, f"w{n}"), max_attempts=20),
                **{**BRISK, "WORKER_CONCURRENCY": str(concurrency), "COOLDOWN_PERIOD": "2"},
            )
            for n in range(4)
        ]
        seconds = 20 * scale + 8
        submitting = asyncio.create_task(submit_over(stage, email, round(40 * seconds), seconds, batch=4))
        await asyncio.sleep(3)
        fell = time.time()
        dependency.faulty_for = {"w0"}
        out = await until(lambda: apps[0].organs.breakers.exiled == [email], 10)
        left = time.time()
        failures = [c for c in bad(dependency.between(fell)) if c.who == "w0"]
        await asyncio.sleep(seconds / 3)
        dependency.faulty_for = set()
        cured = time.time()
        back = await until(lambda: not apps[0].organs.breakers.exiled, 15)
        again = time.time()
        ids = await submitting
        finished = await until(lambda: len({c.key for c in dependency.calls if not c.code}) >= len(ids), 30)
        jobs = await read_all(stage, ids)
        told = await story(stage, email)
    in_flight = 0 if concurrency == 1 else concurrency
    drill.exactly("ejected", int(out), 1)
    drill.at_most("failures until it was out", len(failures), THRESHOLD + 1 + in_flight)
    drill.tell("seconds until it was out", left - fell)
    drill.exactly("openings of the fleet", len(told.opened), 0)
    drill.exactly("back by itself", int(back), 1)
    drill.tell("seconds from its cure until it was back", again - cured)
    drill.exactly("all jobs done", int(finished), 1)
    drill.tell("most attempts of a job", max(job.attempts for job in jobs))
    drill.judge()
