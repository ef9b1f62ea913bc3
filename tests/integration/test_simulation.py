"""What two workers lived through, played again: by the policy in force it gives the ledger, to the millisecond."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from typing import Any

import grpc
import pytest
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2_grpc
from selfheal.control.v1 import breaker_service_pb2 as api
from typer.testing import CliRunner

from controlplane.breakers import BreakerDesk
from controlplane.recorder import Recorder, Simulator
from jobkit import TransientError
from jobkit.adapters import tape
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.cli import breaker
from jobkit.cli.targets import Targets
from jobkit.domain.attempts import Logged
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.errors import Precondition, Unavailable
from jobkit.domain.job import JobState
from jobkit.domain.policy import PolicyOverride
from jobkit.domain.simulation import simulate
from jobkit.handling import JobContext
from jobkit.host.world import new_id
from tests.integration.stage import Place, Stage, Trade, eventually, succeed

POLICY = {"COOLDOWN_PERIOD": "0.3", "MAX_COOLDOWN": "0.6"}
ENVIRON = {**POLICY, "MAX_RETRIES": "20"}


async def _log(stage: Stage, name: str) -> list[Logged]:
    return list(tape.read(name, await stage.world.breakers.log(name, 10_000)))


async def _outage(stage: Stage, trades: list[Trade]) -> None:
    """Noise, an outage in which probes fail, recovery, work, and an operator's hand."""
    name = trades[0].job_type
    numbers = itertools.count()

    async def now_and_then(job: JobContext) -> None:
        if next(numbers) % 7 == 0:
            raise TransientError("API_TIMEOUT")

    for trade in trades:
        trade.act = now_and_then
    ids = await stage.submit_many(name, 80)
    await stage.all_reach(ids, JobState.SUCCEEDED, 20)
    for trade in trades:
        trade.fail(lambda: TransientError("API_TIMEOUT"))
    ids = await stage.submit_many(name, 60)

    async def record() -> BreakerRecord:
        return (await stage.world.breakers.read([name])).get(name) or BreakerRecord(name)

    await eventually(record, lambda found: found.reopened >= 2, 20)
    for trade in trades:
        trade.act = now_and_then
    await stage.all_reach(ids, JobState.SUCCEEDED, 30)
    await eventually(record, lambda found: found.state is BreakerState.CLOSED)


async def test_an_operator_tries_a_policy(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane(**POLICY)
        trade = Trade(place.type("email"))
        await stage.worker(trade, **ENVIRON)
        name = trade.job_type
        trade.fail(lambda: TransientError("API_TIMEOUT"))
        ids = await stage.submit_many(name, 30)

        async def record() -> BreakerRecord:
            return (await stage.world.breakers.read([name])).get(name) or BreakerRecord(name)

        await eventually(record, lambda found: found.reopened >= 1, 20)
        await Recorder(stage.world).drain(name)  # a batch of its own
        trade.act = succeed
        await stage.all_reach(ids, JobState.SUCCEEDED, 30)

        async with grpc.aio.insecure_channel(plane.front.rpc.address) as channel:
            stub: Any = breaker_service_pb2_grpc.BreakerServiceStub(channel)

            async def ledger() -> list[Any]:
                told = await stub.ListBreakerTransitions(api.ListBreakerTransitionsRequest(breaker=name))
                return list(reversed(told.transitions))

            await eventually(ledger, lambda moves: moves[-1].to_state == breaker_pb2.BREAKER_STATE_CLOSED)
            same = await stub.SimulateBreakerPolicy(api.SimulateBreakerPolicyRequest(breaker=name))
            assert [_told(move) for move in same.transitions] == [_told(move) for move in await ledger()]
            assert same.attempts >= 30
            assert (same.attempts_held, same.falsely_open_duration.ToTimedelta().total_seconds()) == (0, 0)
            assert same.jobs_held > 0
            assert same.attempts_saved > 0
            assert same.HasField("log_start_time")
            again = await stub.SimulateBreakerPolicy(
                api.SimulateBreakerPolicyRequest(breaker=name, end_time=same.end_time)
            )
            assert again == same

            late = api.SimulateBreakerPolicyRequest(breaker=name, start_time=same.end_time)
            late.end_time.CopyFrom(same.start_time)
            slow = api.SimulateBreakerPolicyRequest(breaker=name)
            slow.policy.slow_call_duration.FromSeconds(1)
            for request, code in (
                (late, grpc.StatusCode.INVALID_ARGUMENT),
                (slow, grpc.StatusCode.INVALID_ARGUMENT),
                (api.SimulateBreakerPolicyRequest(breaker="x"), grpc.StatusCode.NOT_FOUND),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.SimulateBreakerPolicy(request)
                assert refused.value.code() is code

        targets = Targets("", plane.front.rpc.address)
        words = ["simulate", name, "failure_threshold=1000"]
        result = await asyncio.to_thread(
            CliRunner().invoke, breaker.app, [*words, "--start", "10m", "--json"], obj=targets
        )
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        assert answer.get("transitions", []) == []
        result = await asyncio.to_thread(CliRunner().invoke, breaker.app, words[:-1], obj=targets)
        assert result.exit_code == 0, result.output
        assert "HALF_OPEN" in result.stdout
        assert "falsely open" in result.stdout


def _told(move: Any) -> tuple[Any, ...]:
    return move.generation, move.from_state, move.to_state, move.transition_time.ToNanoseconds(), move.reason


async def test_the_policy_in_force_gives_the_ledgers_own_timeline(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        trades = [Trade(place.type("email")), Trade(place.type("email"))]
        apps = [await stage.worker(trade, **ENVIRON) for trade in trades]
        name = trades[0].job_type
        await _outage(stage, trades)
        log = await _log(stage, name)
        policy = apps[0].organs.breakers.of(name).policy
        found = simulate(policy, BreakerRecord(name), log, 0)
        ledger = [entry.move for entry in reversed(await stage.world.history.page(name, 1000, None))]
        assert len(ledger) >= 7
        assert [replace(move, proof=None) for move in found.transitions] == [
            replace(move, proof=None) for move in ledger
        ]
        assert found.held == 0
        assert found.false_ms(log[-1].at) == 0
        again = simulate(policy, BreakerRecord(name), log, 0)
        assert again == found

        deaf = simulate(replace(policy, failure_threshold=1000), BreakerRecord(name), log, 0)
        assert deaf.transitions == ()
        slow = simulate(replace(policy, cooldown=60_000, max_cooldown=60_000), BreakerRecord(name), log, 0)
        assert [(move.at, move.to_state) for move in slow.transitions] == [(ledger[0].at, BreakerState.OPEN)]
        assert slow.held > 0
        assert slow.false_ms(log[-1].at) > 0


async def test_more_than_one_call_may_look_at_is_refused(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(embedded) as stage:
        name = embedded.type("email")
        await stage.world.types.ensure([name], 10)
        outcomes = tuple(Outcome(new_id(), "", name) for _ in range(20))
        await stage.world.breakers.report(name, Evidence(0, outcomes, "w"), 50, 60_000)
        simulator = Simulator(stage.world, BreakerDesk(stage.world), BreakerPolicy())
        assert (await simulator.simulate(name, PolicyOverride(), None, None)).simulated.attempts == 20
        monkeypatch.setattr("controlplane.recorder.MOST", 20)
        with pytest.raises(Precondition) as refused:
            await simulator.simulate(name, PolicyOverride(), None, None)
        assert (refused.value.reason, refused.value.metadata["limit"]) == ("TOO_MANY_ATTEMPTS", "20")


async def test_without_the_breaker_store_what_was_taken_from_it_is_played(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        name = embedded.type("email")
        world = stage.world
        await world.types.ensure([name], 10)
        outcomes = tuple(Outcome(new_id(), "", name) for _ in range(20))
        await world.breakers.report(name, Evidence(0, outcomes, "w"), 50, 60_000)
        await Recorder(world).record()
        simulator = Simulator(world, BreakerDesk(world), BreakerPolicy())
        kept, world.breakers = world.breakers, RedisBreakerStore("redis://127.0.0.1:1", "x")
        try:
            with pytest.raises(Unavailable):
                await Recorder(world).record()
            found = await simulator.simulate(name, PolicyOverride(), None, None)
        finally:
            await world.breakers.close()
            world.breakers = kept
        assert found.simulated.attempts == 20
