"""The rules of the control stream, with a worker played by the test."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from selfheal.control.v1 import control_stream_pb2 as wire
from selfheal.control.v1 import worker_pb2

from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import Unavailable
from jobkit.domain.tripping import open_by_hand
from jobkit.host.world import World
from tests.faults.proxy import Proxy
from tests.integration.stage import Place, Stage, eventually
from tests.integration.stream_kit import Played, plays, service_of

PENDING, ACKED, NACKED = (
    worker_pb2.PUSH_STATE_PENDING,
    worker_pb2.PUSH_STATE_ACKED,
    worker_pb2.PUSH_STATE_NACKED,
)


async def opened(world: World, name: str) -> BreakerRecord:
    record = open_by_hand(BreakerRecord(name), await world.breakers.now(), None, "ops", "a test")
    await world.ledger.record(record)
    return record


async def test_identity_comes_once_and_first(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        for wrong in (
            [{"heartbeat": wire.WorkerHeartbeat(sequence=1)}],
            [{"hello": wire.WorkerHello(worker_id="w")}],
            [{"hello": wire.WorkerHello(worker_id="w" * 129, instance_id="i")}],
            [{"hello": wire.WorkerHello(worker_id="w", instance_id="i")}] * 2,
            [{"hello": wire.WorkerHello(worker_id="w", instance_id="i")}, {}],
        ):
            async with plays(plane.front.rpc.address) as worker:
                for message in wrong:
                    await worker.say(**message)
                assert await worker.ended() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert plane.streams.hub.sessions == {}


async def test_answers_to_what_was_never_pushed_are_refused(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        for wrong in (
            {"ack": wire.PushAck(kind="breakers", nonce="7", version=1)},
            {"command_result": wire.CommandResult(command_id="x")},
            {"breaker_report": wire.BreakerReport(sequence=1)},
        ):
            async with plays(plane.front.rpc.address) as worker:
                await worker.greet()
                await worker.say(**wrong)
                assert await worker.ended() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_reconnect_resumes_by_version(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await stage.world.types.ensure(["email"], 10)
        await opened(stage.world, "email")
        held: dict[str, int] = {}
        async with plays(plane.front.rpc.address) as worker:
            await worker.greet()
            for _ in range(2):
                push = await worker.find("push")
                await worker.answer(push)
                held[push.kind] = push.version
                assert len(push.resources) == 1
        assert set(held) == {"breakers", "job_types"}
        async with plays(plane.front.rpc.address, held={**held, "unheard-of": 3}) as worker:
            await worker.greet()
            await opened(stage.world, "sms")
            push = await worker.find("push")
            assert (push.kind, push.nonce) == (
                "breakers",
                "1",
            )  # the catalog is held already; nonces begin anew
            assert push.version > held["breakers"]
            view = plane.streams.hub.sessions["played"].view()
            assert [kind.kind for kind in view.kinds] == ["breakers", "job_types"]


async def test_a_push_tells_the_remaining_time_and_no_moment(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await stage.world.types.ensure(["email"], 10)
        now = await stage.world.breakers.now()
        record = open_by_hand(BreakerRecord("email"), now, now + 60_000, "ops", "")
        await stage.world.ledger.record(record)
        async with plays(plane.front.rpc.address) as worker:
            await worker.greet()
            push = await worker.find("push", kind="breakers")
            snapshot = wire.BreakerSnapshot()
            assert push.resources[0].Unpack(snapshot)
            assert 50 < snapshot.remaining.ToTimedelta().total_seconds() <= 60
            assert snapshot.generation == record.generation


async def test_a_newer_push_supersedes_and_a_refusal_is_shown(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await opened(stage.world, "email")
        async with plays(plane.front.rpc.address) as worker, service_of(plane) as service:
            await worker.greet()
            first = await worker.find("push", kind="breakers")
            await opened(stage.world, "sms")
            second = await worker.find("push", kind="breakers")
            assert second.version > first.version

            async def shown() -> worker_pb2.WorkerPush:
                found = await service.seen("played")
                assert found is not None
                return next(one for one in found.pushes if one.kind == "breakers")

            await worker.answer(first)  # too late: it says nothing about the second
            await worker.beat()
            await worker.find("pulse")
            push = await shown()
            assert (push.state, push.version, push.held_version) == (PENDING, second.version, 0)
            refusal = Status(code=code_pb2.INVALID_ARGUMENT, message="unknown job type")
            await worker.answer(second, refusal)
            await eventually(shown, lambda one: one.state == NACKED)
            (breakers,) = [one for one in (await service.list()).convergence if one.kind == "breakers"]
            assert (breakers.version, breakers.acked, breakers.nacked, breakers.pending) == (
                second.version,
                0,
                1,
                0,
            )
            assert [(one.worker_id, one.error) for one in breakers.refusals] == [("played", refusal)]
            samples = await stage.metrics(plane)
            for result in ("nack", "stale"):
                name = f'selfheal_stream_push_acks_total{{kind="breakers",result="{result}"}}'
                assert samples[name] == 1


async def test_the_same_worker_again_ends_the_stream_before(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        async with plays(plane.front.rpc.address) as first, plays(plane.front.rpc.address) as second:
            await first.greet()
            await second.greet()
            assert await first.ended() == (grpc.StatusCode.FAILED_PRECONDITION, "STREAM_REPLACED")
            await second.beat()
            await second.find("pulse", sequence=1)
            assert list(plane.streams.hub.sessions) == ["played"]


async def test_who_is_silent_is_dropped(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane(STREAM_HEARTBEAT="0.1")
        async with plays(plane.front.rpc.address) as worker:
            await worker.greet()
            assert await worker.ended() == (grpc.StatusCode.UNAVAILABLE, "STREAM_SILENT")


async def test_a_half_open_stream_dies_and_the_worker_comes_back(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane(STREAM_HEARTBEAT="0.2")
        with Proxy(f"http://{plane.front.rpc.address}") as proxy:
            app = await stage.worker(CONTROLPLANE_ADDR=f"127.0.0.1:{proxy.port}")

            async def state() -> tuple[bool, int]:
                return app.control.connected, len(plane.streams.hub.sessions)

            for fault in ("down", "up"):
                await eventually(state, lambda now: now == (True, 1), 20)
                proxy.half_open(fault)
                await eventually(state, lambda now: now == (False, 0))
                proxy.heal()
            await eventually(state, lambda now: now == (True, 1), 20)


async def test_who_does_not_read_holds_nobody_up(embedded: Place) -> None:
    """The one that stopped reading is dropped; meanwhile only the newest push waits for it, and others get theirs."""
    async with Stage(embedded) as stage:
        plane = await stage.controlplane(STREAM_HEARTBEAT="1")
        names = [f"type-{number:04}-{'x' * 100}" for number in range(1000)]
        await stage.world.types.ensure(names, 5000)
        with Proxy(f"http://{plane.front.rpc.address}") as proxy:
            async with (
                plays(f"127.0.0.1:{proxy.port}", "slow") as slow,
                plays(plane.front.rpc.address) as quick,
            ):
                await slow.greet()
                await quick.greet()
                await quick.find("push", kind="job_types")
                proxy.half_open("down")
                session = plane.streams.hub.sessions["slow"]
                beats = [asyncio.ensure_future(_beat_on(worker)) for worker in (slow, quick)]
                number = 0
                while (
                    "slow" in plane.streams.hub.sessions
                ):  # TCP and HTTP/2 take some 4 MB before they push back
                    number += 1
                    await stage.world.types.ensure([f"more-{number}"], 5000)
                    plane.streams.pusher.hurry()
                    await quick.find("push", kind="job_types")
                    assert session.outbox.waiting <= 3
                assert set(plane.streams.hub.sessions) == {"played"}
                assert isinstance(session.why, Unavailable)
                assert session.why.reason == "STREAM_SLOW"
                for beat in beats:
                    beat.cancel()


async def _beat_on(worker: Played) -> None:
    """Until the stream has ended."""
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        while True:
            await worker.beat()
            await asyncio.sleep(0.1)


async def test_a_control_plane_that_stops_sends_its_workers_on(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        async with plays(plane.front.rpc.address) as worker:
            await worker.greet()
            ending = asyncio.ensure_future(worker.ended())
            await stage.leave(plane)
            assert await ending == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


@pytest.mark.parametrize("answer", [None, Status(code=code_pb2.INTERNAL, message="no lanes")])
async def test_a_command_comes_again_until_it_is_answered(embedded: Place, answer: Status | None) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        async with service_of(plane) as service:
            async with plays(plane.front.rpc.address) as worker:
                await worker.greet()
                instance = worker.hello.instance_id
                asked = asyncio.ensure_future(service.drain("played", reason="why", actor="ada"))
                command = await worker.find("command")
                assert (command.drain.reason, command.drain.actor) == ("why", "ada")
            async with plays(plane.front.rpc.address) as worker:
                worker.hello.instance_id = instance
                await worker.greet()
                again = await worker.find("command")
                assert again == command
                await worker.say(command_result=wire.CommandResult(command_id=again.command_id, error=answer))
                drained = await asked
                assert drained.drain.HasField("answer_time")
                assert drained.drain.error == (answer or Status())
            async with plays(plane.front.rpc.address) as worker:
                worker.hello.instance_id = instance
                await worker.greet()
                await worker.beat()
                await worker.find("pulse")
                assert not plane.streams.hub.sessions["played"].commanded


async def test_a_new_process_is_not_drained_by_an_order_to_the_old_one(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        async with service_of(plane) as service:
            async with plays(plane.front.rpc.address) as worker:
                await worker.greet()
                asked = asyncio.ensure_future(service.drain("played"))
                await worker.find("command")
            async with plays(plane.front.rpc.address) as worker:
                await worker.greet()
                drained = await asked
                # Its own run was told nothing.
                assert not drained.HasField("drain")
                assert not plane.streams.hub.sessions["played"].commanded
