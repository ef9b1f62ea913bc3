"""`selfheal.control.v1.ControlStreamService`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.rpc.code_pb2 import UNKNOWN
from selfheal.control.v1 import control_stream_pb2 as wire
from selfheal.control.v1 import (
    control_stream_service_pb2,  # noqa: F401 - the descriptor, which the stubs of a service do not load
    control_stream_service_pb2_grpc,
)

from controlplane.streams.convert import figures_from_wire, identity_from_wire, welcome_to_wire
from controlplane.streams.hub import Hub, slow
from controlplane.streams.orders import Orders
from controlplane.streams.outbox import Outbox
from controlplane.streams.reports import Reports
from controlplane.streams.session import Began, Session
from controlplane.streams.shelf import Shelf
from jobkit.domain.errors import FieldViolation, InvalidJob, SelfhealError
from jobkit.rpc.breakers import report_from_wire
from jobkit.runtime.clock import DatabaseClock

_log = logging.getLogger(__name__)

MAX_ERROR = 500


@dataclass(frozen=True, slots=True)
class StreamParts:
    """What all streams share. `heartbeat` is how often a worker is asked to be heard, in seconds; `kinds` are those
    that this release pushes."""

    hub: Hub
    orders: Orders
    reports: Reports
    clock: DatabaseClock
    heartbeat: float
    kinds: frozenset[str]


class ControlStreamServicer(control_stream_service_pb2_grpc.ControlStreamServiceServicer):
    """A stream is a reader and a writer around one session. Neither waits for another stream."""

    def __init__(self, parts: StreamParts) -> None:
        self._parts = parts
        self._hub = parts.hub

    # It writes through the context, which the stubs do not know of: an iterator could not be bounded in time.
    async def Connect(  # type: ignore[override]
        self, request_iterator: AsyncIterator[wire.WorkerMessage], context: Any
    ) -> None:
        session = await self._greet(request_iterator)
        self._hub.join(session)
        reading = asyncio.create_task(self._read(session, request_iterator))
        try:
            await self._write(session, context)
        finally:
            self._hub.leave(session)
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def _greet(self, messages: AsyncIterator[wire.WorkerMessage]) -> Session:
        """The first message, which has to be the hello. Raises InvalidJob."""
        try:
            async with asyncio.timeout(self._hub.silence):
                first = await anext(aiter(messages), None)
        except TimeoutError:
            first = None
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidJob([FieldViolation("hello", "must be the first message")])
        now, parts = asyncio.get_running_loop().time(), self._parts
        held = {k: version for k, version in first.hello.held_versions.items() if k in parts.kinds}
        outbox = Outbox(welcome_to_wire(self._hub.replica, parts.heartbeat, self._hub.silence))
        began = Began(self._hub.replica, parts.clock.now())
        return Session(identity_from_wire(first.hello), began, Shelf(held), outbox, now)

    # -- from the worker

    async def _read(self, session: Session, messages: AsyncIterator[wire.WorkerMessage]) -> None:
        """Until the worker ends the stream, or breaks a rule."""
        try:
            async for message in messages:
                session.heard(asyncio.get_running_loop().time(), self._parts.clock.now())
                self._take(session, message)
            session.end(None)
        except SelfhealError as wrong:
            session.end(wrong)
        except Exception as error:  # whatever it is, the writer must not wait for ever
            _log.info("the stream of %s ended: %s", session.identity.worker_id, error)
            session.end(None)

    def _take(self, session: Session, message: wire.WorkerMessage) -> None:
        """Raises InvalidJob for what breaks the rules."""
        match message.WhichOneof("message"):
            case "heartbeat":
                session.figures = figures_from_wire(message.heartbeat)
                session.outbox.pulse(message.heartbeat.sequence)
            case "ack":
                self._take_ack(session, message.ack)
            case "breaker_report":
                self._take_report(session, message.breaker_report)
            case "command_result":
                self._take_result(session, message.command_result)
            case "hello":
                raise InvalidJob([FieldViolation("hello", "must be the first message, and no later one")])
            case _:
                raise InvalidJob([FieldViolation("message", "must be one that this release knows")])

    def _take_ack(self, session: Session, ack: wire.PushAck) -> None:
        refusal = None
        if ack.HasField("error"):
            refusal = (ack.error.code or UNKNOWN, ack.error.message[:MAX_ERROR])
            _log.warning(
                "worker %s refuses %s v%d: %s",
                session.identity.worker_id,
                ack.kind,
                ack.version,
                refusal[1],
            )
        self._hub.count(ack.kind, session.shelf.answer(ack.kind, ack.nonce, ack.version, refusal))

    def _take_report(self, session: Session, report: wire.BreakerReport) -> None:
        try:
            record = report_from_wire(report)
        except (ValueError, KeyError) as error:
            raise InvalidJob([FieldViolation("breaker_report", f"must be readable: {error}")]) from error
        self._parts.reports.put(session, report.sequence, record)

    def _take_result(self, session: Session, result: wire.CommandResult) -> None:
        if result.command_id not in session.commanded:
            raise InvalidJob([FieldViolation("command_result.command_id", "must be that of a command")])
        error = result.error if result.HasField("error") else None
        code = (error.code or UNKNOWN) if error is not None else 0
        message = error.message[:MAX_ERROR] if error is not None else ""
        self._parts.orders.answered(UUID(result.command_id), code, message)

    # -- to the worker

    async def _write(self, session: Session, context: Any) -> None:
        """Until the session ends. Raises what the worker is to be told."""
        while not session.ended:
            message = await session.outbox.next()
            if message is None or session.ended:
                continue
            try:
                async with asyncio.timeout(self._hub.silence):
                    await context.write(message)
            except TimeoutError:
                _log.info("worker %s does not read, dropping its stream", session.identity.worker_id)
                self._hub.drop(session, slow(self._hub.silence))
        if session.why is not None:
            raise session.why
