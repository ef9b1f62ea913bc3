"""Permits: whoever takes one and is gone keeps the others waiting no longer than its lease."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from jobkit.domain.breaker import BreakerState
from jobkit.domain.errors import store_unavailable
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.test_worker_lanes import trip
from worker import organs
from worker.app import WorkerApp

ATTEMPT_SECONDS, LEASE_SECONDS = 2.0, 3.0


def dies(app: WorkerApp) -> None:
    """As far as the breaker store can see: nothing is told, and nothing given back."""

    async def away(*_: object) -> None:
        raise store_unavailable("redis")

    app.organs.fallback.return_permit = away  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["killed", "drained"])
async def test_a_prober_that_is_gone_keeps_the_next_one_waiting_no_longer_than_its_lease(
    real: Place, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """One that drains gives its permit back at once."""
    monkeypatch.setattr(organs, "PERMIT_SLACK", timedelta(seconds=LEASE_SECONDS - ATTEMPT_SECONDS))
    email, other = Trade(real.type("email")), Trade(real.type("email"))
    name, loop = email.job_type, asyncio.get_running_loop()
    brisk = {"COOLDOWN_PERIOD": "0.3", "ATTEMPT_TIMEOUT": str(ATTEMPT_SECONDS), "SHUTDOWN_GRACE": "0.1"}
    async with Stage(real) as stage:
        await stage.jobapi()
        first = await stage.worker(email, **brisk)
        await trip(stage, email, first)
        email.hang()
        failed = len(email.begun)
        for _ in range(2):
            await stage.submit(name)
        await email.began(failed + 1)
        taken = loop.time()
        second = await stage.worker(other, **brisk)
        assert second.organs.breakers.of(name).record.state is BreakerState.HALF_OPEN
        if how == "killed":
            dies(first)
        await stage.leave(first)
        await other.began(1)
        waited = loop.time() - taken
        if how == "killed":
            assert LEASE_SECONDS - 0.5 < waited < LEASE_SECONDS + 2
        else:
            assert waited < LEASE_SECONDS - 0.5

        async def state() -> BreakerState:
            return second.organs.breakers.of(name).record.state

        await eventually(state, lambda found: found is BreakerState.CLOSED)
