"""A thousand workers that have nothing but their control stream, in one process."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self
from uuid import uuid4

import grpc
from selfheal.control.v1 import control_stream_pb2 as wire
from selfheal.control.v1 import control_stream_service_pb2_grpc

AT_ONCE = 50  # that connect at the same time
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
FIGURES = [
    wire.WorkerHeartbeat.TypeFigures(job_type=name, in_flight=8, processed=200, failed=3)
    for name in ("email", "sms")
]


class _Worker:
    """One stream at a time, on a connection of its own, as a real worker's is; a lost one is opened again."""

    def __init__(self, target: str, number: int, crowd: Crowd) -> None:
        self.worker_id = f"crowd-{number:05}"
        self._target = target
        self._instance = uuid4().hex
        self._crowd = crowd
        self._held: dict[str, int] = {}
        self._beats = 0
        self._pen = asyncio.Lock()

    async def run(self) -> None:
        while True:
            async with grpc.aio.insecure_channel(self._target, options=OWN_CONNECTION) as channel:
                stub: Any = control_stream_service_pb2_grpc.ControlStreamServiceStub(channel)
                try:
                    await self._stream(stub.Connect())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    self._crowd.lost += 1
            await asyncio.sleep(1)

    async def _stream(self, call: Any) -> None:
        async with self._crowd.room:
            hello = wire.WorkerHello(
                worker_id=self.worker_id,
                instance_id=self._instance,
                job_types=["email", "sms"],
                slots=256,
                held_versions=self._held,
            )
            await call.write(wire.WorkerMessage(hello=hello))
            welcome = await call.read()
        interval = welcome.welcome.heartbeat_interval.ToTimedelta().total_seconds()
        beating = asyncio.ensure_future(self._beat(call, interval))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                if message.HasField("push"):
                    push = message.push
                    self._held[push.kind] = push.version
                    ack = wire.PushAck(nonce=push.nonce, version=push.version, kind=push.kind)
                    await self._write(call, wire.WorkerMessage(ack=ack))
                    self._crowd.acked(self.worker_id, push)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _write(self, call: Any, message: wire.WorkerMessage) -> None:
        """One at a time: grpc ends a call that is written to by two at once."""
        async with self._pen:
            await call.write(message)

    async def _beat(self, call: Any, interval: float) -> None:
        while True:
            self._beats += 1
            beat = wire.WorkerHeartbeat(
                sequence=self._beats, slots_used=16, memory_bytes=100 << 20, types=FIGURES
            )
            await self._write(call, wire.WorkerMessage(heartbeat=beat))
            self._crowd.beats += 1
            await asyncio.sleep(interval)


class Crowd:
    """`size` workers, connecting and connected while entered. `lost` counts streams that ended, which on a machine
    with nothing else to do is none. Times are Unix seconds."""

    def __init__(self, target: str, size: int) -> None:
        self.size = size
        self.beats = 0
        self.lost = 0
        self.room = asyncio.Semaphore(AT_ONCE)
        self._workers = [_Worker(target, number, self) for number in range(size)]
        self._tasks: list[asyncio.Task[None]] = []
        self._acks: dict[tuple[str, int], dict[str, float]] = {}
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(worker.run()) for worker in self._workers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def acked(self, worker_id: str, push: wire.Push) -> None:
        self._acks.setdefault((push.kind, push.version), {})[worker_id] = time.time()
        self._news.set()

    async def all_acked(self, kind: str, version: int, patience: float) -> list[float]:
        """When each worker answered."""
        try:
            async with asyncio.timeout(patience):
                while len(self._acks.get((kind, version), ())) < self.size:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            answered = len(self._acks.get((kind, version), ()))
            raise AssertionError(
                f"{answered} of {self.size} have answered, {self.lost} streams were lost"
            ) from None
        return list(self._acks[kind, version].values())
