"""`selfheal breaker watch`, `history`, `incidents`, `incident`: what became of breakers, over gRPC."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2_grpc, incident_pb2
from selfheal.control.v1 import breaker_service_pb2 as api

from jobkit.cli.arguments import AsJson, Control
from jobkit.cli.breaker_view import (
    print_event,
    print_incident,
    print_incidents,
    print_transitions,
)
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.session import collect, converse, tell
from jobkit.client.calls import Caller, pause_before_retry
from jobkit.client.errors import from_call

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub

Breaker = Annotated[str, typer.Argument(metavar="BREAKER", help="The breaker; all when not given.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]
Revision = Annotated[
    int | None,
    typer.Option(min=0, help="Go on after this revision; else the current state comes first."),
]
OpenOnly = Annotated[bool, typer.Option("--open", help="Only those that last.")]
AGAIN = 1.0  # seconds


def add_to(app: typer.Typer) -> None:
    """The commands of this file."""
    app.command()(watch)
    app.command()(history)
    app.command()(incidents)
    app.command()(incident)


def watch(
    ctx: typer.Context,
    breaker: Breaker = "",
    revision: Revision = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Show every transition as it happens, until interrupted; goes on by itself when the server comes back."""
    target = address or ctx.obj.control
    request = api.WatchBreakersRequest(breaker=breaker, revision=revision)

    async def follow(channel: grpc.aio.Channel, call: Caller) -> None:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        failures, heard = 0, False
        while True:
            try:
                async for message in stub.WatchBreakers(request):
                    failures, heard = 0, True
                    if message.revision:
                        request.revision = message.revision
                    _show(message, as_json)
                await asyncio.sleep(AGAIN)  # ended without a word, by somebody in between
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
                failures += 1
                pause = pause_before_retry(error, failures, random.random())  # noqa: S311 - jitter
                if pause is None or not heard:  # a server that was never there is most likely elsewhere
                    raise error from None
                if failures == 1:
                    tell(error, target)
                await asyncio.sleep(pause)

    converse(target, follow)


def history(
    ctx: typer.Context,
    breaker: Breaker = "",
    limit: Limit = 50,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """List transitions, newest first; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[breaker_pb2.BreakerTransition]:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        request = api.ListBreakerTransitionsRequest(breaker=breaker)
        return await collect(call, stub.ListBreakerTransitions, request, lambda page: page.transitions, limit)

    moves = converse(address or ctx.obj.control, read)
    (print_json_lines if as_json else print_transitions)(moves)


def incidents(
    ctx: typer.Context,
    breaker: Breaker = "",
    open_only: OpenOnly = False,
    limit: Limit = 50,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """List incidents and what they amounted to, newest first; --json prints one document a line.

    HELD is the most jobs that waited at once, SAVED an estimate of the attempts that they would have burned."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[incident_pb2.Incident]:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        request = api.ListIncidentsRequest(breaker=breaker, open_only=open_only)
        return await collect(call, stub.ListIncidents, request, lambda page: page.incidents, limit)

    listed = converse(address or ctx.obj.control, read)
    (print_json_lines if as_json else print_incidents)(listed)


def incident(
    ctx: typer.Context,
    incident_id: Annotated[str, typer.Argument(metavar="ID", help="The incident.")],
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Show one incident and its transitions."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> api.GetIncidentResponse:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        return await call(stub.GetIncident, api.GetIncidentRequest(incident_id=incident_id))

    answer = converse(address or ctx.obj.control, read)
    if as_json:
        print_json(answer)
    else:
        print_incident(answer.incident, answer.transitions)


def _show(message: api.WatchBreakersResponse, as_json: bool) -> None:
    if as_json:
        print_json(message, indent=None)
    else:
        print_event(message)
    sys.stdout.flush()  # into a pipe as well: whoever reads it waits for news
