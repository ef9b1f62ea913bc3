"""`selfheal.control.v1.QuarantineService`."""

from __future__ import annotations

from typing import Any

from selfheal.control.v1 import quarantine_service_pb2 as wire
from selfheal.control.v1 import quarantine_service_pb2_grpc

from controlplane.quarantine import QuarantineDesk, check_discard, check_redrive
from controlplane.quarantine_convert import (
    group_to_wire,
    group_token_from_wire,
    group_token_to_wire,
    preview_to_wire,
    redrive_to_wire,
    redrive_token_from_wire,
    redrive_token_to_wire,
)
from jobkit.domain.asked import parse_id


class QuarantineServicer(quarantine_service_pb2_grpc.QuarantineServiceServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, desk: QuarantineDesk) -> None:
        self._desk = desk

    async def ListFailureGroups(
        self, request: wire.ListFailureGroupsRequest, context: Any
    ) -> wire.ListFailureGroupsResponse:
        after = group_token_from_wire(request.page_token)
        groups, more = await self._desk.groups(request.filter, request.page_size, after)
        return wire.ListFailureGroupsResponse(
            failure_groups=[group_to_wire(group) for group in groups],
            next_page_token=group_token_to_wire(more),
        )

    async def RedriveJobs(self, request: wire.RedriveJobsRequest, context: Any) -> wire.RedriveJobsResponse:
        rate = request.rate if request.HasField("rate") else None
        asked = (request.filter, rate, request.actor, request.reason, request.request_id)
        if request.validate_only:
            check_redrive(*asked)
            matching = await self._desk.count(request.filter)
            return wire.RedriveJobsResponse(redrive=preview_to_wire(request.filter, rate, matching))
        redrive, existed = await self._desk.redrive(*asked)
        return wire.RedriveJobsResponse(redrive=redrive_to_wire(redrive), existed=existed)

    async def GetRedrive(self, request: wire.GetRedriveRequest, context: Any) -> wire.GetRedriveResponse:
        redrive = await self._desk.get(parse_id("redrive", request.redrive_id))
        return wire.GetRedriveResponse(redrive=redrive_to_wire(redrive))

    async def ListRedrives(
        self, request: wire.ListRedrivesRequest, context: Any
    ) -> wire.ListRedrivesResponse:
        before = redrive_token_from_wire(request.page_token)
        redrives, more = await self._desk.page(request.page_size, before)
        return wire.ListRedrivesResponse(
            redrives=[redrive_to_wire(redrive) for redrive in redrives],
            next_page_token=redrive_token_to_wire(more),
        )

    async def CancelRedrive(
        self, request: wire.CancelRedriveRequest, context: Any
    ) -> wire.CancelRedriveResponse:
        redrive_id = parse_id("redrive", request.redrive_id)
        redrive = await self._desk.cancel(redrive_id, request.actor, request.reason)
        return wire.CancelRedriveResponse(redrive=redrive_to_wire(redrive))

    async def DiscardJobs(self, request: wire.DiscardJobsRequest, context: Any) -> wire.DiscardJobsResponse:
        if request.validate_only:
            check_discard(request.filter, request.actor, request.reason)
            matching = sum((await self._desk.count(request.filter)).values())
            return wire.DiscardJobsResponse(count=matching)
        count, more = await self._desk.discard(request.filter, request.actor, request.reason)
        return wire.DiscardJobsResponse(count=count, more=more)
