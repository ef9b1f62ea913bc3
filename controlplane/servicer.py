"""`selfheal.control.v1.BreakerService`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from selfheal.control.v1 import breaker_service_pb2 as wire

from controlplane.breakers import BreakerDesk
from controlplane.chronicle import Chronicle
from controlplane.convert import breaker_to_wire, forecast_to_wire
from controlplane.history_servicer import HistoryServicer
from controlplane.policies import PolicyDesk
from controlplane.recorder import Simulator
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.rpc.convert import from_timestamp
from jobkit.rpc.policies import override_from_wire, override_to_wire, policy_to_wire

MAX_PAGE = 1_000


class BreakerServicer(HistoryServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(
        self, desk: BreakerDesk, policies: PolicyDesk, chronicle: Chronicle, simulator: Simulator
    ) -> None:
        super().__init__(chronicle)
        self._desk = desk
        self._policies = policies
        self._simulator = simulator

    async def ListBreakers(
        self, request: wire.ListBreakersRequest, context: Any
    ) -> wire.ListBreakersResponse:
        size = _page_size(request.page_size)
        # The token is the last name of the page before: names are their own order.
        views = [v for v in await self._desk.list() if v.record.name > request.page_token]
        page = views[:size]
        return wire.ListBreakersResponse(
            breakers=[breaker_to_wire(view) for view in page],
            next_page_token=page[-1].record.name if len(views) > size else "",
        )

    async def GetBreaker(self, request: wire.GetBreakerRequest, context: Any) -> wire.GetBreakerResponse:
        view = await self._desk.get(request.breaker)
        return wire.GetBreakerResponse(breaker=breaker_to_wire(view))

    async def ResetBreaker(
        self, request: wire.ResetBreakerRequest, context: Any
    ) -> wire.ResetBreakerResponse:
        view = await self._desk.reset(request.breaker, request.actor, request.reason)
        return wire.ResetBreakerResponse(breaker=breaker_to_wire(view))

    async def OpenBreaker(self, request: wire.OpenBreakerRequest, context: Any) -> wire.OpenBreakerResponse:
        view = await self._desk.open(request.breaker, request.actor, request.reason, _until(request))
        return wire.OpenBreakerResponse(breaker=breaker_to_wire(view))

    async def CloseBreaker(
        self, request: wire.CloseBreakerRequest, context: Any
    ) -> wire.CloseBreakerResponse:
        view = await self._desk.close(request.breaker, request.actor, request.reason, _until(request))
        return wire.CloseBreakerResponse(breaker=breaker_to_wire(view))

    async def ListBreakerPolicies(
        self, request: wire.ListBreakerPoliciesRequest, context: Any
    ) -> wire.ListBreakerPoliciesResponse:
        size = _page_size(request.page_size)
        stored = [p for p in await self._policies.list() if p.pattern > request.page_token]
        page = stored[:size]
        return wire.ListBreakerPoliciesResponse(
            policies=[policy_to_wire(policy) for policy in page],
            next_page_token=page[-1].pattern if len(stored) > size else "",
        )

    async def GetBreakerPolicy(
        self, request: wire.GetBreakerPolicyRequest, context: Any
    ) -> wire.GetBreakerPolicyResponse:
        stored, effective, patterns = await self._policies.get(request.breaker)
        return wire.GetBreakerPolicyResponse(
            policy=policy_to_wire(stored),
            effective=override_to_wire(request.breaker, effective),
            patterns=patterns,
        )

    async def UpdateBreakerPolicy(
        self, request: wire.UpdateBreakerPolicyRequest, context: Any
    ) -> wire.UpdateBreakerPolicyResponse:
        stored = await self._policies.update(
            request.breaker,
            override_from_wire(request.policy, request.breaker),
            list(request.update_mask.paths),
            etag=request.policy.etag,
            actor=request.actor,
            reason=request.reason,
            validate_only=request.validate_only,
        )
        return wire.UpdateBreakerPolicyResponse(policy=policy_to_wire(stored))

    async def SimulateBreakerPolicy(
        self, request: wire.SimulateBreakerPolicyRequest, context: Any
    ) -> wire.SimulateBreakerPolicyResponse:
        forecast = await self._simulator.simulate(
            request.breaker,
            override_from_wire(request.policy, request.breaker),
            from_timestamp(request.start_time) if request.HasField("start_time") else None,
            from_timestamp(request.end_time) if request.HasField("end_time") else None,
        )
        return forecast_to_wire(request.breaker, forecast)


def _page_size(asked: int) -> int:
    if asked < 0:
        raise InvalidJob([FieldViolation("page_size", "must not be negative")])
    return min(asked or MAX_PAGE, MAX_PAGE)


def _until(request: wire.OpenBreakerRequest | wire.CloseBreakerRequest) -> datetime | None:
    return from_timestamp(request.until) if request.HasField("until") else None
