"""An outage from its first failure to its sum: ledger, incidents, counters, and breakers rebuilt from it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from controlplane.keeper import Keeper
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, Evidence, Outcome
from jobkit.domain.tripping import close_by_hand, decide_evidence, open_by_hand, reset
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.test_controlplane_history import flap


async def test_an_outage_is_an_incident_with_its_sum_and_its_evidence(place: Place) -> None:
    async with Stage(place) as stage:
        name = place.type("email")
        trade = Trade(name)
        trade.fail(lambda: ConnectionError("refused"))
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(trade, COOLDOWN_PERIOD="1", WORKER_CONCURRENCY="2")
        await stage.submit_many(name, 30)

        async def incidents() -> list[dict[str, Any]]:
            return list((await stage.get(plane, "/v1/incidents"))[1]["incidents"])

        (lasting,) = await eventually(incidents, bool)
        trade.act = Trade(name).act
        (over,) = await eventually(incidents, lambda found: "closeTime" in found[0])
        assert (over["breaker"], over["errorCode"]) == (name, "NETWORK_ERROR")
        assert over["incidentId"] == lasting["incidentId"]
        assert int(over["jobsHeld"]) > 0
        assert int(over["attemptsSaved"]) >= int(over["jobsHeld"])
        assert over["probes"] >= 1
        assert float(over["timeToDetect"].rstrip("s")) < 5
        assert float(over["timeToRecover"].rstrip("s")) > 0.5
        assert over["goodProbeTime"] == over["closeTime"]
        _, body = await stage.get(plane, f"/v1/incidents/{over['incidentId']}")
        evidence = body["transitions"][0]["evidence"]
        assert evidence["failures"]["NETWORK_ERROR"] >= 5
        assert evidence["sampleSize"] > 0

        async def counted() -> tuple[float, float]:
            found = await stage.metrics(plane)
            return (
                found.get(f'selfheal_breaker_transitions_total{{breaker="{name}",to="CLOSED"}}', 0),
                found.get(f'selfheal_attempts_saved_total{{job_type="{name}"}}', 0),
            )

        assert await eventually(counted, lambda both: both == (1, int(over["attemptsSaved"])))


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_two_control_planes_count_each_transition_once(real: Place) -> None:
    async with Stage(real) as stage:
        planes = [await stage.controlplane() for _ in range(2)]
        name = real.type("email")
        await stage.world.types.ensure([name], 10)
        await flap(stage.world, name, 40)
        labels = [
            f'selfheal_breaker_transitions_total{{breaker="{name}",to="{to}"}}' for to in ("OPEN", "CLOSED")
        ]

        async def counted() -> list[float]:
            found = [await stage.metrics(plane) for plane in planes]
            return [sum(metrics.get(label, 0) for metrics in found) for label in labels]

        await eventually(counted, lambda sums: sums == [20, 20])
        await asyncio.sleep(1.2)
        assert await counted() == [20, 20]


async def test_evidence_reaches_the_ledger_through_the_store(place: Place) -> None:
    """Both stores keep a transition's proof until the keeper files it."""

    async with Stage(place) as stage:
        name = place.type("email")
        await stage.world.types.ensure([name], 10)
        policy = BreakerPolicy()
        evidence = Evidence(0, tuple(Outcome(uuid4(), "API_TIMEOUT", name) for _ in range(12)), "w")
        window = await stage.world.breakers.report(name, evidence, policy.outcomes_needed, 60_000)
        record = decide_evidence(policy, window, 0.5)
        assert isinstance(record, BreakerRecord)
        assert await stage.world.breakers.swap(name, 0, record)
        await Keeper(stage.world).keep()
        (entry,) = await stage.world.history.page(name, 10, None)
        assert entry.move.proof is not None
        assert entry.move.proof.distinct_jobs == {"API_TIMEOUT": 12}
        assert entry.move.proof.first_failure_at == window.first_failure_at


@pytest.mark.parametrize("until", [None, 3_600_000])
async def test_a_wiped_store_remembers_what_was_done_by_hand(place: Place, until: int | None) -> None:

    async with Stage(place) as stage:
        name, other = place.type("email"), place.type("sms")
        await stage.world.types.ensure([name, other], 10)
        now = await stage.world.breakers.now()
        end = None if until is None else now + until
        flowing = close_by_hand(BreakerRecord(name), now, end, "ops", "trust me")
        held = open_by_hand(reset(BreakerRecord(other), now, "ops", ""), now, end, "ops", "no")
        for record in (flowing, held):
            await stage.world.ledger.record(record)
        await Keeper(stage.world).keep()
        assert await stage.world.breakers.read([name, other]) == {name: flowing, other: held}
