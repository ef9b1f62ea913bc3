"""One control stream, from its hello to its end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from selfheal.control.v1 import control_stream_pb2 as wire

from jobkit.rpc.breakers import report_to_wire
from worker.pushes import Pushes
from worker.reports import Reports

GREETING_SECONDS = 5.0
COMMANDS_KEPT = 256

# Returns once it is done; what it raises is told.
Commanded = Callable[[wire.Command], Awaitable[None]]


class StreamLost(Exception):
    """The stream is of no more use; says why."""


def told(error: Exception) -> str:
    """Why a stream was lost, in a line."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)


@dataclass(frozen=True, slots=True)
class StreamParts:
    """What outlives a stream. `hello` gives the identity, `heartbeat` the figures since the last one; `commands` are
    by the name of their field in Command."""

    hello: Callable[[], wire.WorkerHello]
    heartbeat: Callable[[int], wire.WorkerHeartbeat]
    pushes: Pushes
    reports: Reports
    commands: Mapping[str, Commanded]


class Stream:
    """`run` it once. `answered` are the results of commands, by id, which outlive the stream: a command that comes
    again is answered again and not done again."""

    def __init__(self, call: Any, parts: StreamParts, answered: dict[str, Status | None]) -> None:
        self._call = call
        self._parts = parts
        self._answered = answered
        self._acks: dict[str, wire.PushAck] = {}
        self._results: deque[wire.CommandResult] = deque()
        self._commands: asyncio.Queue[wire.Command] = asyncio.Queue()
        self._reported = 0
        self._beats = 0
        self._beat_due = True
        self._ready = asyncio.Event()
        self._silence = GREETING_SECONDS
        self._interval = GREETING_SECONDS

    async def run(self, connected: Callable[[], None]) -> None:
        """Until it is lost, which raises StreamLost; `connected` is called once the control plane has answered."""
        hello = self._parts.hello()
        hello.held_versions.update(self._parts.pushes.held)
        await self._write(wire.WorkerMessage(hello=hello))
        first = await self._next()
        if first.WhichOneof("message") != "welcome":
            raise StreamLost("the control plane did not say welcome")
        self._interval = first.welcome.heartbeat_interval.ToTimedelta().total_seconds()
        self._silence = first.welcome.silence_limit.ToTimedelta().total_seconds()
        if self._interval <= 0 or self._silence <= 0:
            raise StreamLost("the control plane's welcome has no intervals")
        connected()
        self._parts.reports.woken = self._ready.set
        why = "it ended"
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_all())
                tasks.create_task(self._write_all())
                tasks.create_task(self._beat())
                tasks.create_task(self._obey())
                tasks.create_task(self._parts.pushes.run(self._ack))
        except* (StreamLost, grpc.aio.AioRpcError) as lost:
            why = told(lost.exceptions[0])
        finally:
            self._parts.pushes.forget()
        raise StreamLost(why)

    def nudge(self) -> None:
        """Send a heartbeat now."""
        self._beat_due = True
        self._ready.set()

    # -- from the control plane

    async def _next(self) -> wire.ControlMessage:
        """The next message. Silence is no life, whatever TCP says."""
        try:
            async with asyncio.timeout(self._silence):
                message = await self._call.read()
        except TimeoutError:
            raise StreamLost(f"nothing was heard for {self._silence:g} s") from None
        if not isinstance(message, wire.ControlMessage):
            raise StreamLost("the control plane ended the stream")
        return message

    async def _read_all(self) -> None:
        while True:
            message = await self._next()
            match message.WhichOneof("message"):
                case "push":
                    self._parts.pushes.put(message.push)
                case "command":
                    self._commands.put_nowait(message.command)
                case "receipt":
                    self._parts.reports.received(message.receipt.sequence)
                case _:  # a pulse: that it came is what it says; or what a later release sends to those who know it
                    pass

    # -- to the control plane

    async def _write(self, message: wire.WorkerMessage) -> None:
        try:
            async with asyncio.timeout(self._silence):
                await self._call.write(message)
        except TimeoutError:
            raise StreamLost(f"the control plane did not read for {self._silence:g} s") from None
        except asyncio.InvalidStateError:
            raise StreamLost("the control plane ended the stream") from None

    async def _write_all(self) -> None:
        while True:
            self._ready.clear()
            while (message := self._take()) is not None:
                await self._write(message)
            await self._ready.wait()

    def _take(self) -> wire.WorkerMessage | None:
        if self._beat_due:
            self._beat_due = False
            self._beats += 1
            return wire.WorkerMessage(heartbeat=self._parts.heartbeat(self._beats))
        if self._acks:
            return wire.WorkerMessage(ack=self._acks.pop(next(iter(self._acks))))
        if self._results:
            return wire.WorkerMessage(command_result=self._results.popleft())
        report = self._parts.reports.after(self._reported)
        if report is not None:
            self._reported = report[0]
            return wire.WorkerMessage(breaker_report=report_to_wire(*report))
        return None

    def _ack(self, ack: wire.PushAck) -> None:
        self._acks[ack.kind] = ack
        self._ready.set()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.nudge()

    # -- commands

    async def _obey(self) -> None:
        """One after the other, in the order of their coming."""
        while True:
            command = await self._commands.get()
            if command.command_id not in self._answered:
                self._answered[command.command_id] = await self._do(command)
                while len(self._answered) > COMMANDS_KEPT:
                    del self._answered[next(iter(self._answered))]
            error = self._answered[command.command_id]
            # What it changed is seen before it is said to be done.
            self.nudge()
            self._results.append(wire.CommandResult(command_id=command.command_id, error=error))

    async def _do(self, command: wire.Command) -> Status | None:
        action = command.WhichOneof("action")
        do = self._parts.commands.get(action) if action is not None else None
        if do is None:
            return Status(code=code_pb2.UNIMPLEMENTED, message="unknown command")
        try:
            await do(command)
        except Exception as error:
            return Status(code=code_pb2.INTERNAL, message=f"{type(error).__name__}: {error}"[:500])
        return None
