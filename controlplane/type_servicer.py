"""`selfheal.control.v1.JobTypeService`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import job_type_pb2, job_type_service_pb2_grpc
from selfheal.control.v1 import job_type_service_pb2 as wire

from controlplane.types import TypeDesk, TypeView
from jobkit.domain.asked import page_by_name, page_size
from jobkit.rpc.convert import from_timestamp, to_timestamp


class JobTypeServicer(job_type_service_pb2_grpc.JobTypeServiceServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, desk: TypeDesk) -> None:
        self._desk = desk

    async def ListJobTypes(
        self, request: wire.ListJobTypesRequest, context: Any
    ) -> wire.ListJobTypesResponse:
        views, following = page_by_name(
            await self._desk.list(),
            lambda view: view.info.job_type,
            request.page_token,
            page_size(request.page_size),
        )
        return wire.ListJobTypesResponse(
            job_types=[type_to_wire(view) for view in views], next_page_token=following
        )

    async def GetJobType(self, request: wire.GetJobTypeRequest, context: Any) -> wire.GetJobTypeResponse:
        return wire.GetJobTypeResponse(job_type=type_to_wire(await self._desk.get(request.job_type)))

    async def PauseJobType(
        self, request: wire.PauseJobTypeRequest, context: Any
    ) -> wire.PauseJobTypeResponse:
        until = from_timestamp(request.until) if request.HasField("until") else None
        view = await self._desk.pause(request.job_type, request.actor, request.reason, until)
        return wire.PauseJobTypeResponse(job_type=type_to_wire(view))

    async def ResumeJobType(
        self, request: wire.ResumeJobTypeRequest, context: Any
    ) -> wire.ResumeJobTypeResponse:
        view = await self._desk.resume(request.job_type, request.actor, request.reason)
        return wire.ResumeJobTypeResponse(job_type=type_to_wire(view))

    async def UpdateJobTypeLimits(
        self, request: wire.UpdateJobTypeLimitsRequest, context: Any
    ) -> wire.UpdateJobTypeLimitsResponse:
        concurrency = request.concurrency if request.HasField("concurrency") else None
        view = await self._desk.limit(request.job_type, concurrency, request.actor, request.reason)
        return wire.UpdateJobTypeLimitsResponse(job_type=type_to_wire(view))


def type_to_wire(view: TypeView) -> job_type_pb2.JobType:
    info = view.info
    message = job_type_pb2.JobType(
        job_type=info.job_type,
        concurrency=info.slot_limit,
        revision=info.revision,
        waiting_jobs=view.waiting,
        running_jobs=view.running,
        held_jobs=view.held,
        served=view.served,
    )
    if info.pause is not None:
        pause = job_type_pb2.Pause(
            actor=info.pause.actor, reason=info.pause.reason, pause_time=_time(info.pause.since)
        )
        if info.pause.until is not None:
            pause.until.CopyFrom(_time(info.pause.until))
        message.pause.CopyFrom(pause)
    return message


def _time(millis: int) -> Timestamp:
    return to_timestamp(datetime.fromtimestamp(millis / 1000, UTC))
