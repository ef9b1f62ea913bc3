"""The part of `selfheal.control.v1.BreakerService` that tells of the past."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from selfheal.control.v1 import breaker_service_pb2 as wire
from selfheal.control.v1 import breaker_service_pb2_grpc

from controlplane.chronicle import LARGEST_ID, Chronicle
from controlplane.convert import entry_to_wire, event_to_wire, incident_to_wire
from jobkit.domain.asked import page_size
from jobkit.rpc.convert import not_our_token

PAGE = 100


class HistoryServicer(breaker_service_pb2_grpc.BreakerServiceServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle

    async def WatchBreakers(
        self, request: wire.WatchBreakersRequest, context: Any
    ) -> AsyncIterator[wire.WatchBreakersResponse]:
        revision = request.revision if request.HasField("revision") else None
        async with aclosing(self._chronicle.watch(request.breaker, revision)) as events:
            async for event in events:
                yield event_to_wire(event)

    async def ListBreakerTransitions(
        self, request: wire.ListBreakerTransitionsRequest, context: Any
    ) -> wire.ListBreakerTransitionsResponse:
        entries, before = await self._chronicle.transitions(
            request.breaker, page_size(request.page_size, PAGE), _token(request.page_token)
        )
        return wire.ListBreakerTransitionsResponse(
            transitions=[entry_to_wire(entry) for entry in entries], next_page_token=_text(before)
        )

    async def ListIncidents(
        self, request: wire.ListIncidentsRequest, context: Any
    ) -> wire.ListIncidentsResponse:
        incidents, before = await self._chronicle.incidents(
            request.breaker, request.open_only, page_size(request.page_size, PAGE), _token(request.page_token)
        )
        return wire.ListIncidentsResponse(
            incidents=[incident_to_wire(incident) for incident in incidents], next_page_token=_text(before)
        )

    async def GetIncident(self, request: wire.GetIncidentRequest, context: Any) -> wire.GetIncidentResponse:
        incident, entries = await self._chronicle.incident(request.incident_id)
        return wire.GetIncidentResponse(
            incident=incident_to_wire(incident), transitions=[entry_to_wire(entry) for entry in entries]
        )


def _token(text: str) -> int | None:
    """The last revision of the page before. Raises InvalidJob for a token that we did not make."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > LARGEST_ID:
        raise not_our_token()
    return int(text)


def _text(before: int | None) -> str:
    return "" if before is None else str(before)
