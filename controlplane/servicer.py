"""`selfheal.control.v1.BreakerService`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from selfheal.control.v1 import breaker_service_pb2 as wire

from controlplane.breakers import BreakerDesk
from controlplane.chronicle import Chronicle
from controlplane.convert import breaker_to_wire
from controlplane.history_servicer import HistoryServicer
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.rpc.convert import from_timestamp

MAX_PAGE = 1_000


class BreakerServicer(HistoryServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, desk: BreakerDesk, chronicle: Chronicle) -> None:
        super().__init__(chronicle)
        self._desk = desk

    async def ListBreakers(
        self, request: wire.ListBreakersRequest, context: Any
    ) -> wire.ListBreakersResponse:
        if request.page_size < 0:
            raise InvalidJob([FieldViolation("page_size", "must not be negative")])
        size = min(request.page_size or MAX_PAGE, MAX_PAGE)
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


def _until(request: wire.OpenBreakerRequest | wire.CloseBreakerRequest) -> datetime | None:
    return from_timestamp(request.until) if request.HasField("until") else None
