"""What two workers lived through, played again: by the policy in force it gives the ledger, to the millisecond."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from selfheal.control.v1 import breaker_pb2, breaker_policy_pb2, breaker_service_pb2_grpc
from selfheal.control.v1 import breaker_service_pb2 as api
from typer.testing import CliRunner

from controlplane.breakers import BreakerDesk
from controlplane.recorder import Recorder, Simulator
from jobkit import TransientError
from jobkit.adapters import tape
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.cli import breaker
from jobkit.cli.policy import parse_settings
from jobkit.cli.targets import Targets
from jobkit.domain.attempts import Logged, Raw
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.errors import Precondition, Unavailable
from jobkit.domain.job import JobState
from jobkit.domain.policy import PolicyOverride, PolicySet
from jobkit.domain.simulation import simulate
from jobkit.handling import JobContext
from jobkit.host.world import new_id
from tests.integration.stage import Place, Stage, Trade, eventually, succeed

POLICY = {"COOLDOWN_PERIOD": "0.3", "MAX_COOLDOWN": "0.6"}
ENVIRON = {**POLICY, "MAX_RETRIES": "20"}
SLOW_SECONDS = 0.5  # longer than a busy machine takes for nothing


async def _log(stage: Stage, name: str) -> list[Logged]:
    return list(tape.read(name, await stage.world.breakers.log(name, 10_000)))


async def _outage(stage: Stage, trades: list[Trade]) -> None:
    """Noise, an outage in which probes fail, recovery, and work; some jobs are bad, some calls slow."""
    name = trades[0].job_type
    numbers = itertools.count()

    async def now_and_then(job: JobContext) -> None:
        number = next(numbers)
        await asyncio.sleep(SLOW_SECONDS if number % 11 == 0 else 0)
        if number % 7 == 0:
            raise TransientError("API_TIMEOUT")
        if number % 31 == 1:
            raise TransientError("NOT_FOUND")

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
    await stage.all_reach(ids, JobState.SUCCEEDED, 60)
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

            async def simulated() -> Any:
                return await stub.SimulateBreakerPolicy(api.SimulateBreakerPolicyRequest(breaker=name))

            # Workers tell of the last successes a moment after the jobs are done.
            same = await eventually(simulated, lambda found: found.attempts >= 30)
            assert [_told(move) for move in same.transitions] == [_told(move) for move in await ledger()]
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
            wrong = api.SimulateBreakerPolicyRequest(breaker=name)
            wrong.policy.slow_call_rate = 2
            for request, code in (
                (late, grpc.StatusCode.INVALID_ARGUMENT),
                (wrong, grpc.StatusCode.INVALID_ARGUMENT),
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
        kept = PolicyOverride(
            slow_call_duration=round(SLOW_SECONDS * 1000), ignored_error_codes=frozenset({"NOT_FOUND"})
        )
        for app in apps:
            app.organs.breakers.apply(PolicySet(1, {name: kept}))
        await _outage(stage, trades)
        log = await _log(stage, name)
        policy = apps[0].organs.breakers.of(name).policy
        assert policy.slow_call_duration
        told = [o for entry in log if isinstance(entry.what, Evidence) for o in entry.what.outcomes]
        assert {o.own_code for o in told if o.ignored} == {"NOT_FOUND"}
        assert any(o.slow for o in told)
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
        patient = simulate(replace(policy, cooldown=60_000, max_cooldown=60_000), BreakerRecord(name), log, 0)
        assert [(move.at, move.to_state) for move in patient.transitions] == [
            (ledger[0].at, BreakerState.OPEN)
        ]
        assert patient.held > 0
        assert patient.false_ms(log[-1].at) > 0


async def test_a_candidate_judges_the_attempts_anew(place: Place) -> None:
    """It opens on calls whose slowness nobody minded, and on a code that was ignored."""
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane(**POLICY)
        trade = Trade(place.type("email"))
        name = trade.job_type
        async with grpc.aio.insecure_channel(plane.front.rpc.address) as channel:
            stub: Any = breaker_service_pb2_grpc.BreakerServiceStub(channel)
            lenient = breaker_policy_pb2.BreakerPolicy(
                ignored_error_codes=breaker_policy_pb2.ErrorCodes(codes=["GONE"])
            )
            await stub.UpdateBreakerPolicy(api.UpdateBreakerPolicyRequest(breaker=name, policy=lenient))
            app = await stage.worker(trade, **ENVIRON)
            policies = await stage.world.policies.current()
            app.organs.breakers.apply(policies)

            async def slowly(job: JobContext) -> None:
                await asyncio.sleep(0.03)

            trade.act = slowly
            await stage.all_reach(await stage.submit_many(name, 30), JobState.SUCCEEDED, 20)
            trade.fail(lambda: TransientError("GONE"))
            await stage.submit_many(name, 20)

            async def simulated(*settings: str) -> Any:
                policy, _ = parse_settings(settings)
                return await stub.SimulateBreakerPolicy(
                    api.SimulateBreakerPolicyRequest(breaker=name, policy=policy)
                )

            same = await eventually(simulated, lambda found: found.attempts >= 50)
            assert list(same.transitions) == []
            assert (same.attempts_untimed, list(same.log_gaps)) == (0, [])
            for settings, code in (
                (["slow_call_duration=20ms"], "SLOW_CALL"),
                (["ignored_error_codes=,"], "GONE"),
                (["ignored_error_codes=OTHER"], "GONE"),
            ):
                found = await simulated(*settings)
                assert found.transitions[0].to_state == breaker_pb2.BREAKER_STATE_OPEN, settings
                assert found.transitions[0].error_code == code
            assert list((await simulated("slow_call_duration=10s")).transitions) == []


async def test_what_the_log_has_lost_is_said(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobkit.adapters.embedded.breakers.LOG_KEPT", 5)
    async with Stage(embedded) as stage:
        plane = await stage.controlplane(**POLICY)
        name, world = embedded.type("email"), stage.world
        await world.types.ensure([name], 10)

        async def report() -> None:
            evidence = Evidence(0, (Outcome(new_id(), "", name, took=1),), "w")
            await world.breakers.report(name, evidence, 50, 60_000)

        await report()
        await Recorder(world).drain(name)
        for _ in range(7):
            await asyncio.sleep(0.002)
            await report()
        targets = Targets("", plane.front.rpc.address)
        words = ["simulate", name]
        result = await asyncio.to_thread(CliRunner().invoke, breaker.app, [*words, "--json"], obj=targets)
        answer = json.loads(result.stdout)
        (gap,) = answer["logGaps"]
        assert gap["startTime"] != gap["endTime"]
        assert answer["attempts"] == "6"
        result = await asyncio.to_thread(CliRunner().invoke, breaker.app, words, obj=targets)
        assert "log lost" in result.stdout


async def test_of_more_than_one_call_may_look_at_the_newest_is_played_unless_all_is_asked_for(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.recorder.MOST", 100)
    minute = 60_000
    async with Stage(embedded) as stage:
        name, world = embedded.type("email"), stage.world
        await world.types.ensure([name], 10)
        now = await world.breakers.now()
        for minutes in range(30, 0, -1):
            outcomes = tuple(Outcome(new_id(), "", name) for _ in range(20))
            at = now - minutes * minute
            await world.attempts.put(name, [Raw((at, 1), at, tape.of_report(Evidence(0, outcomes, "w")))])
        simulator = Simulator(world, BreakerDesk(world), BreakerPolicy(failure_window=1_000))
        found = await simulator.simulate(name, PolicyOverride(), None, None)
        assert 60 <= found.simulated.attempts <= 100
        assert now - 6 * minute < found.start < now - 3 * minute
        hour = datetime.fromtimestamp(now / 1000, UTC) - timedelta(hours=1)
        with pytest.raises(Precondition) as refused:
            await simulator.simulate(name, PolicyOverride(), hour, None)
        assert (refused.value.reason, refused.value.metadata["limit"]) == ("TOO_MANY_ATTEMPTS", "100")


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
