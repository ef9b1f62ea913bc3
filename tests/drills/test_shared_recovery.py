"""(e) Three types need one dependency of limited capacity, and all have a backlog when it is back: together they
drive it at what it bears, and each gets on."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.drills.dependency import good
from tests.drills.figures import Drill
from tests.drills.outage import DOWN, JOBS, UP, WORKERS, frail, patience, served
from tests.drills.test_outage import Seen, judge_drain
from tests.drills.traffic import BRISK, calling, read_all, story, trade, until
from tests.integration.stage import Place, Stage

OUTAGE_SECONDS = 12.0
# Of what is done until the first type is through, none has less than this part of an equal share.
FAIR = 0.5


@pytest.mark.parametrize("parts", [(1 / 3,) * 3, (0.8, 0.1, 0.1)], ids=["equal", "unequal"])
async def test_e_shared_recovery(
    place: Place, drill: Drill, scale: float, parts: tuple[float, float, float]
) -> None:
    smtp = f"{place.prefix}-smtp"
    types = [place.type(name) for name in ("email", "receipt", "newsletter")]
    dependency = frail(DOWN)
    async with Stage(place) as stage:
        await stage.jobapi()
        for number in range(WORKERS):
            act = calling(dependency, f"w{number}", blames=smtp)
            await stage.worker(*(trade(t, act, depends_on=[smtp]) for t in types), **BRISK)
        fell = time.time()
        by_type = await asyncio.gather(
            *(stage.submit_many(t, round(JOBS * scale * part)) for t, part in zip(types, parts, strict=True))
        )
        ids = [job_id for some in by_type for job_id in some]
        await asyncio.sleep(max(fell + OUTAGE_SECONDS - time.time(), 0))
        dependency.weather = UP
        healed = time.time()
        wanted = {str(job_id) for job_id in ids}
        drained = await until(
            lambda: served(dependency, healed, wanted) >= len(wanted), patience(len(ids)), 1.0
        )
        await asyncio.sleep(2)
        told = await story(stage, f"@{smtp}")
        found = await read_all(stage, ids)
    drill.tell("jobs", " ".join(str(len(some)) for some in by_type))
    judge_drain(drill, Seen(fell, healed, dependency.calls, told, found, drained, dependency.collapses))
    ends = [
        sorted(c.ended for c in good(dependency.calls) if c.key in set(map(str, some))) for some in by_type
    ]
    first = min(each[-1] for each in ends if each)
    done = [sum(end <= first for end in each) for each in ends]
    drill.tell("done of each when the first was through", " ".join(map(str, done)))
    drill.at_least("least of them, of an equal share", min(done) / (sum(done) / len(done)), FAIR)
    drill.judge()
