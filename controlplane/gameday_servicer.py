"""`selfheal.control.v1.GameDayService`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from selfheal.control.v1 import fault_pb2, game_day_service_pb2_grpc
from selfheal.control.v1 import game_day_service_pb2 as wire

from controlplane.convert import to_time
from controlplane.gameday import GameDayDesk
from jobkit.domain.asked import page_size
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.fault import StoredFault
from jobkit.rpc.convert import from_duration, to_duration

SERVICE = "selfheal.control.v1.GameDayService"
PAGE = 100


class GameDayServicer(game_day_service_pb2_grpc.GameDayServiceServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, desk: GameDayDesk) -> None:
        self._desk = desk

    async def InjectFault(self, request: wire.InjectFaultRequest, context: Any) -> wire.InjectFaultResponse:
        stored = await self._desk.inject(
            request.job_type,
            request.error_code,
            request.rate,
            _length(request.ttl),
            actor=request.actor,
            reason=request.reason,
        )
        return wire.InjectFaultResponse(fault=fault_to_wire(stored))

    async def ListFaults(self, request: wire.ListFaultsRequest, context: Any) -> wire.ListFaultsResponse:
        size = page_size(request.page_size, PAGE)
        before = _token(request.page_token)
        # One more than fits says whether there is another page.
        found = await self._desk.list(active_only=request.active_only, limit=size + 1, before=before)
        return wire.ListFaultsResponse(
            faults=[fault_to_wire(stored) for stored in found[:size]],
            next_page_token=str(found[size - 1].fault.fault_id) if len(found) > size else "",
        )

    async def StopFault(self, request: wire.StopFaultRequest, context: Any) -> wire.StopFaultResponse:
        stored = await self._desk.stop(request.fault_id, actor=request.actor, reason=request.reason)
        return wire.StopFaultResponse(fault=fault_to_wire(stored))


def fault_to_wire(stored: StoredFault) -> fault_pb2.Fault:
    fault = stored.fault
    message = fault_pb2.Fault(
        fault_id=str(fault.fault_id),
        job_type=fault.job_type,
        error_code=fault.error_code,
        rate=fault.rate,
        ttl=to_duration(stored.ttl),
        actor=fault.actor,
        reason=fault.reason,
        inject_time=to_time(stored.injected_at),
        stop_actor=stored.stopped_by,
        stop_reason=stored.stop_reason,
    )
    if fault.remaining:
        message.remaining.CopyFrom(to_duration(fault.remaining))
    if stored.stopped_at is not None:
        message.stop_time.CopyFrom(to_time(stored.stopped_at))
    return message


def _length(ttl: Duration) -> timedelta:
    """Raises InvalidJob for what is no duration."""
    try:
        return from_duration(ttl)
    except (ValueError, OverflowError):
        raise InvalidJob([FieldViolation("ttl", "must be a duration")]) from None


def _token(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise InvalidJob([FieldViolation("page_token", "is not one of this list's")]) from None
