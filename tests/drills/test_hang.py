"""(g) The dependency accepts and never answers."""

from __future__ import annotations

import asyncio
import time

from jobkit.domain.breaker import BreakerState
from tests.drills.dependency import Dependency, Weather
from tests.drills.figures import Drill
from tests.drills.traffic import BRISK, Traffic, calling, story, submit_over, trade, unharmed, until
from tests.integration.stage import Place, Stage

TIMEOUT = 3.0


async def test_g_hang(place: Place, drill: Drill, scale: float) -> None:
    email = place.type("email")
    dependency = Dependency(Weather(latency=0.02))
    async with Stage(place) as stage:
        await stage.jobapi()
        others = [Traffic(stage, place.type(name), 20) for name in ("sms", "push")]
        settings = {**BRISK, "ATTEMPT_TIMEOUT": str(TIMEOUT)}
        apps = []
        for _ in range(2):
            trades = [trade(email, calling(dependency)), *(other.trade() for other in others)]
            apps.append(await stage.worker(*trades, **settings))
        breaker = apps[0].organs.breakers.of(email)
        async with others[0], others[1]:
            await submit_over(stage, email, round(200 * scale) + 60, 10 * scale + 3, batch=4)
            calm = time.time()
            dependency.weather = Weather(hangs=True)
            submitting = asyncio.create_task(submit_over(stage, email, 400, 8, batch=4))
            opened = await until(lambda: breaker.record.state is BreakerState.OPEN, TIMEOUT + 5)
            await submitting
            over = time.time()
        told = await story(stage, email)
        hung = min(c.began for c in dependency.calls if c.code == "ABANDONED" or c.ended > over)
        dependency.weather = Weather()
    before = [wait for other in others for wait in other.between(0, calm)]
    during = [wait for other in others for wait in other.between(calm, over)]
    drill.exactly("opened", int(opened), 1)
    if opened:
        drill.at_most("first call that hung until open", told.opened[0] - hung, TIMEOUT + 1, " s")
    drill.tell("calls that hung", sum(c.began >= calm and c.code == "ABANDONED" for c in dependency.calls))
    unharmed(drill, "other types", before, during)
    drill.judge()
