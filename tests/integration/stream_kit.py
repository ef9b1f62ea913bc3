"""A worker played by a test: it speaks on the control stream by itself, well or badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import uuid4

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from selfheal.control.v1 import control_stream_pb2 as wire
from selfheal.control.v1 import control_stream_service_pb2_grpc, worker_pb2, worker_service_pb2_grpc
from selfheal.control.v1 import worker_service_pb2 as api

from controlplane.app import ControlPlaneApp
from jobkit.rpc.details import error_details

PATIENCE = 30.0


class Played:
    """One stream. `hello` fields may be overridden."""

    def __init__(self, channel: grpc.aio.Channel, worker_id: str, held: Mapping[str, int]) -> None:
        stub: Any = control_stream_service_pb2_grpc.ControlStreamServiceStub(channel)
        self.call = stub.Connect()
        self.hello = wire.WorkerHello(
            worker_id=worker_id, instance_id=uuid4().hex, job_types=["email"], held_versions=held
        )
        self.beats = 0

    async def say(self, **message: Any) -> None:
        await self.call.write(wire.WorkerMessage(**message))

    async def greet(self) -> Self:
        await self.say(hello=self.hello)
        assert (await self.next()).HasField("welcome")
        return self

    async def beat(self, **figures: Any) -> None:
        self.beats += 1
        await self.say(heartbeat=wire.WorkerHeartbeat(sequence=self.beats, **figures))

    async def next(self) -> wire.ControlMessage:
        async with asyncio.timeout(PATIENCE):
            message = await self.call.read()
        assert isinstance(message, wire.ControlMessage), await self.call.code()
        return message

    async def find(self, field: str, **like: Any) -> Any:
        """The next message of this field with these values; others are passed over."""
        while True:
            message = await self.next()
            if message.HasField(field):  # type: ignore[arg-type]
                found = getattr(message, field)
                if all(getattr(found, name) == value for name, value in like.items()):
                    return found

    async def answer(self, push: wire.Push, error: Status | None = None) -> None:
        ack = wire.PushAck(nonce=push.nonce, version=push.version, kind=push.kind, error=error)
        await self.say(ack=ack)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the control plane ended the stream: the code and the reason."""
        try:
            async with asyncio.timeout(PATIENCE):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)
            return error.code(), error_details(status).reason if status is not None else ""
        return await self.call.code(), ""


@asynccontextmanager
async def plays(
    target: str, worker_id: str = "played", held: Mapping[str, int] | None = None
) -> AsyncIterator[Played]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield Played(channel, worker_id, held or {})


class Service:
    """`WorkerService` of one replica."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = worker_service_pb2_grpc.WorkerServiceStub(channel)

    async def list(self) -> api.ListWorkersResponse:
        listed: api.ListWorkersResponse = await self.stub.ListWorkers(api.ListWorkersRequest())
        return listed

    async def seen(self, worker_id: str) -> worker_pb2.Worker | None:
        return next((one for one in (await self.list()).workers if one.worker_id == worker_id), None)

    async def drain(self, worker_id: str, **fields: str) -> worker_pb2.Worker:
        request = api.DrainWorkerRequest(worker_id=worker_id, **fields)
        drained: worker_pb2.Worker = (await self.stub.DrainWorker(request)).worker
        return drained


@asynccontextmanager
async def service_of(app: ControlPlaneApp) -> AsyncIterator[Service]:
    async with grpc.aio.insecure_channel(app.front.rpc.address) as channel:
        yield Service(channel)
