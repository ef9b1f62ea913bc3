"""Every crash point of the design: the process dies right before or after each step of a job's way, under load, and
is started again; and replies that are lost after their commit."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from tests.faults.kit import MIX, Kept, Load, Supervisor, everything_done, keep_all, tally_of
from tests.system.fleet import Fleet

LAUNCHER = str(Path(__file__).with_name("crash_launcher.py"))
RATE = 200.0
GENTLE = 80.0  # while the worker crashes, nothing is done
POINTS = {
    "jobapi": ["before:insert", "after:insert", "before:publish", "after:write", "after:publish", "after:beat"],
    "worker": [
        "before:claim", "after:claim", "before:execute", "after:execute", "after:renew", "before:settle",
        "after:settle", "before:publish", "after:publish", "before:ack", "after:ack",
    ],
    "controlplane": ["before:rescue", "after:rescue", "before:orphans", "after:orphans"],
}  # fmt: skip
LONG_ENOUGH = {"seconds": 0.9}  # to be renewed: longer than a third of a lease
MANY_SHORT = {**MIX, "slow": 0.02}


def launcher(point: str, nth: int = 3) -> list[str]:
    return [sys.executable, LAUNCHER, point, str(nth)]


FEW = {component: random.sample(points, 2) for component, points in POINTS.items()}
FEW["controlplane"].pop()  # its steps come seldom


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "points",
    [pytest.param(POINTS, id="all"), pytest.param(FEW, id="some", marks=pytest.mark.short)],
)
async def test_a_crash_at_any_step_loses_nothing(faulty: Fleet, points: dict[str, list[str]]) -> None:
    async with Supervisor(faulty) as supervisor:
        kept = keep_all(supervisor)
        await supervisor.ready()
        async with Load(faulty, rate=GENTLE, mix=MANY_SHORT, payloads={"slow": LONG_ENOUGH}) as load:
            await load.reach(100)
            await _crash_all(supervisor, kept, points)
            await supervisor.ready()
            figures = await everything_done(load)
    print(f"crashes at {points}: {figures}")


async def _crash_all(supervisor: Supervisor, kept: dict[str, Kept], points: dict[str, list[str]]) -> None:
    """All at once. The reconcilers act only where somebody died: the others die on until those are through."""
    async with asyncio.TaskGroup() as group:
        crashing = {
            component: group.create_task(_crash_at_each(supervisor, kept[component], some))
            for component, some in points.items()
        }
        reconciling = crashing.pop("controlplane")
        await asyncio.wait(crashing.values())
        others = [kept[component] for component in crashing]
        while not reconciling.done():
            await supervisor.ready_again(*others)
            await asyncio.sleep(0.5)  # with work in hand
            for one in others:
                one.kill()
            await asyncio.wait([reconciling], timeout=5.0)


async def _crash_at_each(supervisor: Supervisor, kept: Kept, points: list[str]) -> None:
    """Each start but the last is one that will crash."""
    kept.start_next_with(launcher(points[0], _some(kept)))
    kept.kill()
    await supervisor.wait_for_death(kept, 0)
    for number, point in enumerate(points, 1):
        if number < len(points):
            kept.start_next_with(launcher(points[number], _some(kept)))
        await supervisor.wait_for_death(kept, number)
        assert kept.deaths[-1] == -9, f"{kept.component} {point} ended with {kept.deaths[-1]}"


def _some(kept: Kept) -> int:
    """Which call is the last. The reconcilers' come seldom."""
    return 1 if kept.component == "controlplane" else random.randint(2, 10)


@pytest.mark.parametrize("times", [pytest.param("lost", marks=pytest.mark.short), "mute"])
async def test_replies_lost_after_their_commit(faulty: Fleet, times: str) -> None:
    """`lost`: once, and the repeat is answered as if nothing had happened. `mute`: for longer than it is repeated."""
    broken = {"jobapi": "insert", "worker": "claim"}
    async with Supervisor(faulty) as supervisor:
        keep_all(supervisor, first={part: launcher(f"{times}:{step}") for part, step in broken.items()})
        await supervisor.ready()
        async with Load(faulty, rate=RATE) as load:
            await load.reach(800)
            figures = await everything_done(load)
    print(f"{times} replies: {figures}")
    unsure = [accepted for accepted in load.accepted.values() if accepted.unsure_before]
    assert unsure
    assert figures.reruns == 0
    starts = {run.job_id for run in tally_of(load).runs()}
    assert {accepted.job_id for accepted in unsure} <= starts


@pytest.mark.parametrize("times", ["lost", "mute"])
async def test_an_outcome_whose_reply_is_lost_is_settled_once(faulty: Fleet, times: str) -> None:
    async with Supervisor(faulty) as supervisor:
        keep_all(supervisor, first={"worker": launcher(f"{times}:settle")})
        await supervisor.ready()
        async with Load(faulty, rate=RATE) as load:
            await load.reach(600)
            figures = await everything_done(load)
    print(f"{times} settle replies: {figures}")
    assert figures.reruns == 0
