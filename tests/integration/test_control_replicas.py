"""Two replicas of the control plane serve one fleet."""

from __future__ import annotations

import pytest
from selfheal.control.v1 import worker_pb2

from jobkit.adapters.redis.fleet import RedisFleetViews
from jobkit.domain.errors import store_unavailable
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.stream_kit import plays, service_of

DRAINING, DISCONNECTED = worker_pb2.WORKER_STATE_DRAINING, worker_pb2.WORKER_STATE_DISCONNECTED


async def test_either_replica_shows_and_drains_the_whole_fleet(real: Place) -> None:
    async with Stage(real) as stage:
        first = await stage.controlplane()
        one = await stage.worker(Trade(real.type("email")), WORKER_NAME="one")
        second = await stage.controlplane()
        await stage.worker(Trade(real.type("sms")), WORKER_NAME="two")
        async with service_of(first) as here, service_of(second) as there:

            async def replicas(service: object) -> dict[str, str]:
                listed = await (here if service is here else there).list()
                return {worker.worker_id: worker.replica for worker in listed.workers}

            both = {"one": first.streams.hub.replica, "two": second.streams.hub.replica}
            for service in (here, there):
                await eventually(lambda s=service: replicas(s), lambda seen: seen == both)
            # "one" has its stream at the first; the second is asked.
            drained = await there.drain("one", reason="why", actor="ada")
            assert drained.drain.HasField("answer_time")
            assert one.organs.lanes.draining
            shown = await eventually(
                lambda: there.seen("one"), lambda worker: worker is not None and worker.state == DRAINING
            )
            assert shown is not None
            assert (await there.list()).convergence[0].acked in (1, 2)


async def test_a_change_on_one_replica_reaches_the_workers_of_the_other(real: Place) -> None:
    async with Stage(real) as stage:
        first, second = await stage.controlplane(), await stage.controlplane()
        async with plays(first.front.rpc.address, "a") as a, plays(second.front.rpc.address, "b") as b:
            await a.greet()
            await b.greet()
            await stage.world.types.ensure([real.type("email")], 10)
            pushes = [await worker.find("push", kind="job_types") for worker in (a, b)]
            assert pushes[0].version == pushes[1].version
            assert list(pushes[0].resources) == list(pushes[1].resources)


async def test_a_worker_whose_replica_died_goes_on_at_the_other(real: Place) -> None:
    async with Stage(real) as stage:
        plane = await stage.controlplane()
        port = str(plane.front.rpc.port)
        app = await stage.worker(Trade(real.type("email")), WORKER_NAME="one")

        async def connected() -> bool:
            return app.control.connected

        await eventually(connected, bool)
        await stage.leave(plane)
        await eventually(connected, lambda up: not up)
        assert app.front.health.ok
        again = await stage.controlplane(CONTROLPLANE_GRPC_PORT=port)
        await eventually(connected, bool, 20)
        assert set(again.streams.hub.sessions) == {"one"}


async def test_without_the_views_of_others_their_workers_read_as_disconnected(
    real: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(real) as stage:
        first = await stage.controlplane()
        await stage.worker(Trade(real.type("email")), WORKER_NAME="one")

        async def away(self: RedisFleetViews) -> None:
            raise store_unavailable("redis")

        monkeypatch.setattr(RedisFleetViews, "views", away)
        second = await stage.controlplane()
        async with service_of(first) as here, service_of(second) as there:
            await eventually(lambda: here.seen("one"), lambda one: one is not None and bool(one.replica))
            shown = await eventually(lambda: there.seen("one"), lambda one: one is not None)
            assert shown is not None
            assert (shown.state, shown.replica) == (DISCONNECTED, "")
            assert list(shown.job_types) == sorted([real.type("email"), "webhook"])
