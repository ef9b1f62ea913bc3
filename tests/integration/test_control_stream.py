"""The control stream between real workers and real control planes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from selfheal.control.v1 import worker_pb2

from jobkit.domain.breaker import BreakerState
from jobkit.domain.job import JobState
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.stream_kit import service_of
from tests.servers import free_port

ACTIVE, DRAINING = worker_pb2.WORKER_STATE_ACTIVE, worker_pb2.WORKER_STATE_DRAINING


async def test_a_worker_is_seen_with_its_figures(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        app = await stage.worker(trade)
        await eventually(_connected(app), bool)
        async with service_of(plane) as service:
            go = trade.hang()
            job = await stage.submit(trade.job_type)
            await trade.began(1)
            worker = await eventually(
                lambda: service.seen(app.organs.worker_id), lambda one: one is not None and one.types
            )
            assert worker is not None
            (figures,) = worker.types
            assert (worker.state, worker.slots_used) == (ACTIVE, 1)
            assert (figures.job_type, figures.in_flight, figures.processed) == (trade.job_type, 1, 0)
            assert worker.memory_bytes > 10_000_000
            assert list(worker.job_types) == [trade.job_type, "webhook"]
            go.set()
            await stage.reaches(job, JobState.SUCCEEDED)
            await eventually(
                lambda: service.seen(app.organs.worker_id),
                lambda one: one is not None and any(t.processed == 1 for t in one.types),
            )
        assert (await stage.metrics(plane))["selfheal_workers_connected"] == 1.0


async def test_the_catalog_and_the_ledger_reach_every_worker(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        app = await stage.worker(trade)
        async with service_of(plane) as service:

            async def pushes() -> dict[str, Any]:
                worker = await service.seen(app.organs.worker_id)
                return {push.kind: push for push in worker.pushes} if worker else {}

            await eventually(pushes, lambda kinds: "job_types" in kinds)
            await app.organs.breakers.open_until(trade.job_type, timedelta(minutes=1), 0)
            kinds = await eventually(
                pushes, lambda k: "breakers" in k and k["breakers"].state == worker_pb2.PUSH_STATE_ACKED
            )
            assert kinds["breakers"].held_version == kinds["breakers"].version > 0
            listed = await service.list()
            assert {(one.kind, one.acked, one.nacked, one.pending) for one in listed.convergence} == {
                ("breakers", 1, 0, 0),
                ("job_types", 1, 0, 0),
            }
        samples = await stage.metrics(plane)
        assert samples['selfheal_stream_push_acks_total{kind="breakers",result="ack"}'] >= 1


async def test_an_operator_drains_a_worker(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        app = await stage.worker(trade)
        await eventually(_connected(app), bool)
        go = trade.hang()
        running = await stage.submit(trade.job_type)
        await trade.began(1)
        async with service_of(plane) as service:
            drained = await service.drain(app.organs.worker_id, reason="a new disk", actor="ada")
            assert (drained.drain.actor, drained.drain.reason) == ("ada", "a new disk")
            assert drained.drain.HasField("answer_time")
            assert not drained.drain.HasField("error")
            worker = await eventually(
                lambda: service.seen(app.organs.worker_id),
                lambda one: one is not None and one.state == DRAINING,
            )
            assert worker is not None
            assert list(worker.job_types) == []
            waiting = await stage.submit(trade.job_type)
            status, body = await stage.get(app, "/health")
            assert (status, body["info"]["worker"]) == (503, {"status": "down", "message": "draining"})
            go.set()
            await stage.reaches(running, JobState.SUCCEEDED)
            assert (await stage.job(waiting)).state is JobState.QUEUED
            assert len(trade.begun) == 1
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await service.drain("x")
            assert missing.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_worker_without_a_control_plane_works_and_reports_later(embedded: Place) -> None:
    port = str(free_port())
    async with Stage(embedded) as stage:
        await stage.jobapi()
        trade = Trade(embedded.type("email"))
        app = await stage.worker(trade, CONTROLPLANE_ADDR=f"127.0.0.1:{port}")
        await stage.reaches(await stage.submit(trade.job_type), JobState.SUCCEEDED)
        status, body = await stage.get(app, "/health")
        assert (status, body["info"]["controlPlane"]["status"]) == (200, "down")
        await app.organs.breakers.open_until(trade.job_type, timedelta(minutes=1), 0)
        assert app.control.unreported == 1
        await stage.controlplane(CONTROLPLANE_GRPC_PORT=port)

        async def unreported() -> int:
            return app.control.unreported

        await eventually(unreported, lambda left: left == 0, 20)
        told = (await stage.world.ledger.latest())[trade.job_type]
        assert told.state is BreakerState.OPEN
        assert app.front.health.ok


def _connected(app: Any) -> Any:
    async def read() -> bool:
        return bool(app.control.connected)

    return read
