"""Components killed and drained at random instants under load, and started again each time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.kit import Kept, Load, Supervisor, everything_done, keep_all
from tests.system.fleet import COMPONENTS, Fleet

RATE = 250.0
STRIKES = 5
IN_FLIGHT = 5 * 16  # what a worker runs at once: WORKER_CONCURRENCY of each type


@pytest.mark.parametrize("component", COMPONENTS)
async def test_a_component_killed_again_and_again_loses_nothing(faulty: Fleet, component: str) -> None:
    async with Supervisor(faulty) as supervisor:
        victim = keep_all(supervisor)[component]
        await supervisor.ready()
        async with Load(faulty, rate=RATE) as load:
            await load.reach(200)
            await supervisor.havoc(STRIKES, Kept.kill, [victim])
            await supervisor.ready()
            figures = await everything_done(load)
    print(f"{component}: SIGKILL {STRIKES} times: {figures}")
    assert figures.reruns <= (STRIKES * IN_FLIGHT if component == "worker" else 0)


@pytest.mark.parametrize("component", COMPONENTS)
async def test_a_component_drained_again_and_again_runs_nothing_twice(faulty: Fleet, component: str) -> None:
    async with Supervisor(faulty) as supervisor:
        victim = keep_all(supervisor)[component]
        await supervisor.ready()
        async with Load(faulty, rate=RATE) as load:
            await load.reach(200)
            for _ in range(3):
                await _drain(supervisor, victim)
            figures = await everything_done(load)
    print(f"{component}: drained {victim.deaths}: {figures}")
    assert victim.deaths == [0, 0, 0]
    assert figures.reruns == 0


async def _drain(supervisor: Supervisor, kept: Kept) -> None:
    before = len(kept.deaths)
    kept.terminate()
    await supervisor.wait_for_death(kept, before)
    await supervisor.ready()


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(Kept.kill, id="SIGKILL", marks=pytest.mark.short),
        pytest.param(Kept.terminate, id="SIGTERM"),
    ],
)
async def test_all_three_at_once(faulty: Fleet, strike: Callable[[Kept], None]) -> None:
    async with Supervisor(faulty) as supervisor:
        kept = keep_all(supervisor)
        await supervisor.ready()
        async with Load(faulty, rate=RATE) as load:
            for round_ in range(1, 4):
                await load.reach(round_ * 200)
                for one in kept.values():
                    strike(one)
                for one in kept.values():
                    await supervisor.wait_for_death(one, round_ - 1)
                await supervisor.ready()
            figures = await everything_done(load)
    print(f"all at once: {[one.deaths for one in kept.values()]}: {figures}")
    assert figures.reruns <= (3 * IN_FLIGHT if strike is Kept.kill else 0)
