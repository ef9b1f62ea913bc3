"""`selfheal breaker simulate`: what another policy would have done, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_service_pb2 as api
from selfheal.control.v1 import breaker_service_pb2_grpc

from jobkit.cli.arguments import AsJson, Control
from jobkit.cli.breaker_view import print_transitions
from jobkit.cli.output import print_details, print_json, time_text
from jobkit.cli.policy import parse_settings
from jobkit.cli.session import converse
from jobkit.cli.values import parse_since
from jobkit.client.calls import Caller
from jobkit.rpc.convert import from_duration, to_timestamp

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub

SECONDS = 120.0  # a long log takes its time
When = Annotated[str, typer.Option(metavar="TIME", help="A duration ago such as 1h, or an RFC 3339 time.")]


def simulate(
    ctx: typer.Context,
    breaker: Annotated[str, typer.Argument(metavar="BREAKER", help="The breaker.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE…", help="As for `policy set`, over the policy in force."),
    ] = None,
    start: Annotated[
        str,
        typer.Option(metavar="TIME", help="As --end; without it the last hour, or the part of it that fits."),
    ] = "",
    end: When = "",
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Play recorded attempts through a policy, such as cooldown=30s slow_call_duration=2s ignored_error_codes=GONE
    (a comma alone: none). Nothing changes."""
    candidate, _ = parse_settings(settings or [])
    now = datetime.now(UTC)
    request = api.SimulateBreakerPolicyRequest(
        breaker=breaker, policy=candidate, start_time=_time(start, now), end_time=_time(end, now)
    )

    async def work(channel: grpc.aio.Channel, call: Caller) -> api.SimulateBreakerPolicyResponse:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        return await call(stub.SimulateBreakerPolicy, request, timeout=SECONDS)

    found = converse(address or ctx.obj.control, work)
    if as_json:
        print_json(found)
        return
    print_details(_details(found))
    if found.transitions:
        print_transitions(found.transitions)


def _time(text: str, now: datetime) -> Timestamp | None:
    return to_timestamp(parse_since(text, now)) if text else None


def _details(found: api.SimulateBreakerPolicyResponse) -> Iterable[tuple[str, str]]:
    yield "from", time_text(found, "start_time")
    yield "to", time_text(found, "end_time")
    yield "log begins", time_text(found, "log_start_time") or "there is none"
    for gap in found.log_gaps:
        yield "log lost", f"from {time_text(gap, 'start_time')} to {time_text(gap, 'end_time')}"
    yield "attempts", str(found.attempts)
    if found.attempts_untimed:
        yield "of unknown duration", str(found.attempts_untimed)
    yield "of these held", str(found.attempts_held)
    yield "jobs held", f"about {found.jobs_held}"
    yield "attempts saved", f"about {found.attempts_saved}"
    yield "open", f"{from_duration(found.open_duration).total_seconds() / 60:.1f} min"
    yield "falsely open", f"{from_duration(found.falsely_open_duration).total_seconds() / 60:.1f} min"
