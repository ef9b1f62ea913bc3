"""(e) Three types need one dependency: what one of them learns spares the others."""

from __future__ import annotations

import asyncio
import time

import pytest

from jobkit.domain.breaker import BreakerState
from tests.drills.dependency import Dependency, Weather
from tests.drills.figures import Drill
from tests.drills.traffic import BRISK, calling, story, trade, until
from tests.integration.stage import Place, Stage

THRESHOLD = 5


@pytest.mark.parametrize("fails_in", [0.0005, 0.05], ids=["at once", "after 50 ms"])
async def test_e_shared_dependency(place: Place, drill: Drill, fails_in: float) -> None:
    smtp = f"{place.prefix}-smtp"
    types = [place.type(name) for name in ("email", "receipt", "newsletter")]
    dependency = Dependency(Weather(down=True, fails_in=fails_in))
    async with Stage(place) as stage:
        await stage.jobapi()
        apps = []
        for _ in range(2):
            trades = [trade(t, calling(dependency, blames=smtp), depends_on=[smtp]) for t in types]
            apps.append(
                await stage.worker(*trades, **{**BRISK, "COOLDOWN_PERIOD": "60", "MAX_COOLDOWN": "60"})
            )
        breaker = apps[0].organs.breakers.of(f"@{smtp}")
        began = time.time()
        await asyncio.gather(*(stage.submit_many(name, 200) for name in types))
        opened = await until(lambda: breaker.record.state is BreakerState.OPEN, 10)
        await asyncio.sleep(3)
        told = await story(stage, f"@{smtp}")
        own = [await story(stage, name) for name in types]
    drill.exactly("opened", int(opened), 1)
    if opened:
        in_flight = dependency.in_flight_at(told.opened[0])
        drill.tell("in flight when it opened", in_flight)
        # Those that failed while the fifth failure was told were in flight when it happened.
        fifth = sorted(call.ended for call in dependency.calls)[THRESHOLD - 1]
        in_flight = dependency.in_flight_at(fifth)
        drill.tell("in flight at the fifth failure", in_flight)
        drill.at_most("calls of all three types", len(dependency.calls), THRESHOLD + in_flight)
        drill.tell("seconds until it opened", told.opened[0] - began)
    drill.tell("openings of the types' own breakers", sum(len(one.opened) for one in own))
    drill.judge()
