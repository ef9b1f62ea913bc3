"""What operators ask of breakers and do to them; the ledger kept in step; what is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2, breaker_service_pb2_grpc

from controlplane.breakers import BreakerDesk
from controlplane.gauges import Gauges
from controlplane.keeper import Keeper
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Cause, Evidence, Outcome
from jobkit.domain.errors import InvalidJob, Unavailable
from jobkit.domain.job import JobState
from jobkit.domain.tripping import close_by_hand, decide_probe_time, open_by_hand
from jobkit.host.world import World
from jobkit.runtime.settings import Settings, load
from tests.integration.stage import Place, Stage, eventually

OPEN, CLOSED, HALF_OPEN = BreakerState.OPEN, BreakerState.CLOSED, BreakerState.HALF_OPEN


@pytest.fixture
async def world(place: Place) -> AsyncIterator[World]:
    world = World("test", load(Settings, place.environ, embedded=True), {})
    await world.migrate()
    yield world
    await world.close()


@pytest.fixture
async def name(world: World, place: Place) -> str:
    """A job type with a breaker."""
    name = place.type("email")
    await world.types.ensure([name], 10)
    return name


async def opened(world: World, name: str) -> BreakerRecord:
    record = open_by_hand(BreakerRecord(name), await world.breakers.now(), None, "ops", "a test")
    assert await world.breakers.swap(name, 0, record)
    return record


# -- the keeper ---------------------------------------------------------------------------------------------------


async def test_a_transition_that_nobody_reported_gets_into_the_ledger(world: World, name: str) -> None:
    record = await opened(world, name)
    keeper = Keeper(world)
    await keeper.keep()
    told = (await world.ledger.latest())[name]
    assert told.transitions == record.transitions
    assert (await world.types.all())[name].held
    await keeper.keep()
    assert (await world.ledger.latest())[name] == told


async def test_a_hole_in_the_ledger_is_filled(world: World, name: str) -> None:
    """A worker killed before its report, and another that reported the next move."""
    first = open_by_hand(BreakerRecord(name), await world.breakers.now(), 1, "", "")
    second = decide_probe_time(first, first.transitions[0].at + 10)
    assert second is not None
    await world.breakers.swap(name, 0, first)
    await world.breakers.swap(name, first.generation, second)
    await Keeper(world).keep()
    moves = (await world.ledger.latest())[name].transitions
    assert [move.to_state for move in moves] == [OPEN, HALF_OPEN]


async def test_a_wiped_store_is_rebuilt_from_the_ledger(place: Place, world: World, name: str) -> None:
    record = await opened(world, name)
    await Keeper(world).keep()
    await world.breakers.close()
    wiped = {**place.environ, "SELFHEAL_NAMESPACE": f"{place.prefix}-wiped"}
    after = World("after", load(Settings, wiped, embedded=True), {})
    try:
        assert await after.breakers.read([name]) == {}
        await Keeper(after).keep()
        (rebuilt,) = (await after.breakers.read([name])).values()
        assert (rebuilt.state, rebuilt.generation) == (OPEN, record.generation)
        assert rebuilt.transitions == record.transitions
    finally:
        await after.close()


async def test_a_store_restored_from_an_old_copy_is_brought_up_to_date(world: World, name: str) -> None:
    record = await opened(world, name)
    newer = close_by_hand(record, record.transitions[0].at + 10, None, "ops", "")
    await world.ledger.record(newer)
    await Keeper(world).keep()
    (rebuilt,) = (await world.breakers.read([name])).values()
    assert (rebuilt.state, rebuilt.generation) == (CLOSED, newer.generation)


# -- the desk -----------------------------------------------------------------------------------------------------


async def test_the_desk_shows_failures_and_held_jobs(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        held = [await stage.submit(place.type("email")) for _ in range(3)]
        await stage.submit(place.type("other"))
        desk = BreakerDesk(stage.world)
        policy = BreakerPolicy()
        evidence = Evidence(0, tuple(Outcome(uuid4(), code) for code in ("API_TIMEOUT", "", "API_TIMEOUT")))
        await stage.world.breakers.report(place.type("email"), evidence, 10, policy.failure_window)
        view = await desk.open(place.type("email"), "ops", "a test", None)
        assert (view.record.state, view.held_jobs, view.failures) == (OPEN, 3, {"API_TIMEOUT": 2})
        email, other = await desk.list()
        assert (email, other.record.state, other.held_jobs) == (view, CLOSED, 0)
        await stage.all_reach(held, JobState.QUARANTINED)
        view = await desk.reset(place.type("email"), "", "")
        assert (view.record.state, view.held_jobs, view.failures) == (CLOSED, 0, {})
        last = view.record.transitions[-1]
        assert (last.cause, last.actor, last.reason) == (Cause.OPERATOR, "anonymous", "")
        await stage.all_reach(held, JobState.QUEUED)


async def test_two_operators_at_once_both_get_their_move(world: World, name: str) -> None:
    desk = BreakerDesk(world)
    swap, moved = world.breakers.swap, []

    async def outrun(name: str, generation: int, record: BreakerRecord) -> bool:
        if not moved:
            moved.append(open_by_hand(BreakerRecord(name), await world.breakers.now(), None, "faster", ""))
            await swap(name, 0, moved[0])
        return await swap(name, generation, record)

    world.breakers.swap = outrun  # type: ignore[method-assign]
    view = await desk.close(name, "slower", "", None)
    assert [move.actor for move in view.record.transitions] == ["faster", "slower"]


async def test_a_breaker_that_never_stands_still_is_given_up(world: World, name: str) -> None:
    async def never(name: str, generation: int, record: BreakerRecord) -> bool:
        return False

    world.breakers.swap = never  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="is moving") as refused:
        await BreakerDesk(world).reset(name, "", "")
    assert refused.value.reason == "BREAKER_MOVING"


async def test_until_must_lie_ahead_and_texts_are_bounded(world: World, name: str) -> None:
    desk = BreakerDesk(world)
    with pytest.raises(InvalidJob, match="until: must lie in the future"):
        await desk.open(name, "", "", datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InvalidJob) as bad:
        await desk.close(name, "a" * 501, "r" * 501, None)
    assert [violation.path for violation in bad.value.violations] == ["actor", "reason"]
    until = datetime.now(UTC) + timedelta(minutes=5)
    assert (await desk.open(name, "", "", until)).record.open_until == round(until.timestamp() * 1000)


# -- gRPC and HTTP ------------------------------------------------------------------------------------------------


async def test_the_breaker_service(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        for name in ("a", "b", "c"):
            await stage.submit(name)
        async with grpc.aio.insecure_channel(plane.front.rpc.address) as channel:
            service: Any = breaker_service_pb2_grpc.BreakerServiceStub(channel)
            page = await service.ListBreakers(breaker_service_pb2.ListBreakersRequest(page_size=2))
            assert [b.breaker for b in page.breakers] == ["a", "b"]
            rest = await service.ListBreakers(
                breaker_service_pb2.ListBreakersRequest(page_size=2, page_token=page.next_page_token)
            )
            assert ([b.breaker for b in rest.breakers], rest.next_page_token) == (["c"], "")
            with pytest.raises(grpc.aio.AioRpcError) as negative:
                await service.ListBreakers(breaker_service_pb2.ListBreakersRequest(page_size=-1))
            assert negative.value.code() is grpc.StatusCode.INVALID_ARGUMENT

            until = Timestamp(seconds=int(datetime.now(UTC).timestamp()) + 600)
            opened = await service.OpenBreaker(
                breaker_service_pb2.OpenBreakerRequest(breaker="a", actor="ops", reason="why", until=until)
            )
            assert opened.breaker.state == breaker_pb2.BREAKER_STATE_OPEN
            assert (opened.breaker.forced, opened.breaker.held_jobs) == (True, 1)
            assert opened.breaker.open_until == until
            (move,) = opened.breaker.transitions
            assert (move.actor, move.reason, move.cause) == (
                "ops",
                "why",
                breaker_pb2.TRANSITION_CAUSE_OPERATOR,
            )
            closed = await service.CloseBreaker(breaker_service_pb2.CloseBreakerRequest(breaker="a"))
            assert (closed.breaker.state, closed.breaker.forced) == (breaker_pb2.BREAKER_STATE_CLOSED, True)
            reset = await service.ResetBreaker(breaker_service_pb2.ResetBreakerRequest(breaker="a"))
            assert not reset.breaker.forced
            got = await service.GetBreaker(breaker_service_pb2.GetBreakerRequest(breaker="a"))
            assert got.breaker == reset.breaker
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await service.GetBreaker(breaker_service_pb2.GetBreakerRequest(breaker="x"))
            assert missing.value.code() is grpc.StatusCode.NOT_FOUND
            assert rpc_status.from_call(missing.value) is not None


async def test_the_shim_routes_of_breakers(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        assert await stage.get(plane, "/breakers") == (200, {"count": 0, "breakers": []})
        await stage.submit("email")
        await stage.submit("sms")
        desk = BreakerDesk(stage.world)
        view = await desk.open("email", "", "", datetime.now(UTC) + timedelta(seconds=1.5))
        evidence = Evidence(view.record.generation, (Outcome(uuid4(), "X"), Outcome(uuid4(), "Y")))
        await stage.world.breakers.report("email", evidence, 10, 60_000)
        _, body = await stage.get(plane, "/breakers")
        assert body == {
            "count": 2,
            "breakers": [
                {
                    "jobType": "email",
                    "state": "OPEN",
                    "openedAt": view.record.opened_at,
                    "cooldownElapsed": False,
                },
                {"jobType": "sms", "state": "CLOSED"},
            ],
        }

        async def elapsed() -> bool:
            _, body = await stage.get(plane, "/breakers")
            return bool(body["breakers"][0]["cooldownElapsed"])

        await eventually(elapsed, bool)
        assert await stage.get(plane, "/metrics") == (
            200,
            {
                "circuitBreakers": {"total": 2, "open": 1, "closed": 1},
                "failures": {"byJobType": {"email": 2}},
            },
        )
        assert await stage.post(plane, "/breakers/email/reset") == (
            200,
            {"message": "Circuit breaker for 'email' has been reset", "jobType": "email"},
        )
        assert await stage.post(plane, "/breakers/x/reset") == (
            404,
            {"statusCode": 404, "message": "Circuit breaker for jobType 'x' not found", "error": "Not Found"},
        )
        status, body = await stage.get(plane, "/health")
        assert (status, body["info"]["controlPlane"]) == (200, {"status": "up"})


async def test_gauges_count_what_waits_and_how_breakers_stand(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        for _ in range(2):
            await stage.submit("email")
        await stage.submit("sms")
        desk = BreakerDesk(stage.world)
        await desk.open("sms", "", "", None)
        registry = CollectorRegistry()
        gauges = Gauges(stage.world, registry)
        keeper = Keeper(stage.world, gauges.show)
        await gauges.count()
        await keeper.keep()

        def sample(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, labels)

        assert sample("selfheal_jobs_waiting", job_type="email", state="queued") == 2
        assert sample("selfheal_jobs_waiting", job_type="sms", state="held") == 1
        age = sample("selfheal_oldest_waiting_seconds", job_type="email")
        assert age is not None
        assert 0 <= age < 10
        assert sample("selfheal_breaker_state", breaker="email") == 0
        assert sample("selfheal_breaker_state", breaker="sms") == 2
        now = await stage.world.breakers.now()
        await desk.open("sms", "", "", datetime.fromtimestamp(now / 1000, UTC) + timedelta(minutes=1))
        (record,) = (await stage.world.breakers.read(["sms"])).values()
        probing = decide_probe_time(record, now + 61_000)
        assert probing is not None
        await stage.world.breakers.swap("sms", record.generation, probing)
        await keeper.keep()
        assert sample("selfheal_breaker_state", breaker="sms") == 1
        await desk.reset("sms", "", "")
        await keeper.keep()
        assert sample("selfheal_breaker_state", breaker="sms") == 0
        await gauges.count()
        assert sample("selfheal_jobs_waiting", job_type="sms", state="held") is None
        await stage.world.types.ensure(["passing"], 10)
        await keeper.keep()
        assert sample("selfheal_breaker_state", breaker="passing") == 0
        await stage.world.retention.drop_type("passing")
        await keeper.keep()
        assert sample("selfheal_breaker_state", breaker="passing") is None
