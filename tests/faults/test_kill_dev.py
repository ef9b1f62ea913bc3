"""`selfheal dev` on its default, killed again and again under load: one process, one file, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kit import Kept, Load, Supervisor, everything_done, keep_all, make_fleet


@pytest.mark.parametrize("strikes", [pytest.param(2, marks=pytest.mark.short), 6])
async def test_dev_killed_again_and_again_loses_nothing(tmp_path: Path, strikes: int) -> None:
    fleet = make_fleet(tmp_path)
    async with Supervisor(fleet) as supervisor:
        dev = keep_all(supervisor)["dev"]
        await supervisor.ready()
        async with Load(fleet, rate=200) as load:
            await load.reach(200)
            await supervisor.havoc(strikes, Kept.kill, [dev])
            await supervisor.ready()
            await load.reach(len(load.accepted) + 200)
            figures = await everything_done(load)
    print(f"selfheal dev, {strikes} SIGKILLs: {figures}")
    assert figures.reruns <= strikes * 5 * 16
