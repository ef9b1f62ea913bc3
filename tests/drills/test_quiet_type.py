"""(f) No new job arrives: what waits is the probe."""

from __future__ import annotations

import asyncio
import time

from jobkit.domain.breaker import BreakerState
from tests.drills.dependency import Dependency, Weather
from tests.drills.figures import Drill
from tests.drills.traffic import BRISK, calling, story, trade, until
from tests.integration.stage import Place, Stage

COOLDOWN = 4.0


async def test_f_quiet_type(place: Place, drill: Drill) -> None:
    email = place.type("email")
    dependency = Dependency(Weather(down=True, fails_in=0.01))
    settings = {**BRISK, "COOLDOWN_PERIOD": str(COOLDOWN), "MAX_COOLDOWN": str(COOLDOWN)}
    async with Stage(place) as stage:
        await stage.jobapi()
        apps = [await stage.worker(trade(email, calling(dependency)), **settings) for _ in range(2)]
        breaker = apps[0].organs.breakers.of(email)
        worst = 0.0
        for _ in range(3):
            dependency.weather = Weather(down=True, fails_in=0.01)
            await stage.submit_many(email, 12)
            assert await until(lambda: breaker.record.state is BreakerState.OPEN, 10)
            await asyncio.sleep(COOLDOWN / 2)
            dependency.weather = Weather()
            recovered = time.time()
            assert await until(lambda: breaker.record.state is BreakerState.CLOSED, 30)
            closed = (await story(stage, email)).closed[-1]
            worst = max(worst, closed - recovered)
    drill.at_most("recovered until closed, the worst of 3", worst, COOLDOWN + 2, " s")
    drill.judge()
