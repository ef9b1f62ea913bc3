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
from jobkit.domain.asked import page_by_name, page_size
from jobkit.rpc.convert import from_timestamp
from jobkit.rpc.policies import override_from_wire, override_to_wire, policy_to_wire


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
        size, views = page_size(request.page_size), await self._desk.list()
        page, following = page_by_name(views, lambda view: view.record.name, request.page_token, size)
        return wire.ListBreakersResponse(
            breakers=[breaker_to_wire(view) for view in page], next_page_token=following
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
        size, stored = page_size(request.page_size), await self._policies.list()
        page, following = page_by_name(stored, lambda policy: policy.pattern, request.page_token, size)
        return wire.ListBreakerPoliciesResponse(
            policies=[policy_to_wire(policy) for policy in page], next_page_token=following
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


def _until(request: wire.OpenBreakerRequest | wire.CloseBreakerRequest) -> datetime | None:
    return from_timestamp(request.until) if request.HasField("until") else None
