"""`selfheal gameday …`: failures on purpose, over gRPC. Every move asks for a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from selfheal.control.v1 import fault_pb2, game_day_service_pb2_grpc
from selfheal.control.v1 import game_day_service_pb2 as api

from jobkit.cli.arguments import Actor, AsJson, Control, Reason, actor_of, command_group, reason_of
from jobkit.cli.output import Cell, print_details, print_json, print_json_lines, print_table, time_text
from jobkit.cli.session import collect, converse
from jobkit.cli.values import parse_duration
from jobkit.client.calls import Caller
from jobkit.rpc.convert import from_duration, to_duration

if TYPE_CHECKING:
    from selfheal.control.v1.game_day_service_pb2_grpc import GameDayServiceAsyncStub

app = command_group("Inject failures on purpose, to see the fleet heal. Production refuses.")

Type = Annotated[str, typer.Argument(metavar="TYPE", help="The job type.")]
Code = Annotated[str, typer.Option("--code", help="The error code that its attempts fail with.")]
Rate = Annotated[float, typer.Option(help="Which share of its attempts fails, above 0, at most 1.")]
Ttl = Annotated[str, typer.Option(help="For how long, such as 30, 45s or 10m; then it stops by itself.")]
Active = Annotated[bool, typer.Option("--active", help="Only those that go on.")]
FaultId = Annotated[str, typer.Argument(metavar="FAULT", help="The fault's id.")]


@app.command()
def inject(  # noqa: PLR0913, PLR0917 - one for each field of the request
    ctx: typer.Context,
    job_type: Type,
    code: Code = "API_TIMEOUT",
    rate: Rate = 1.0,
    ttl: Ttl = "1m",
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Make a share of a type's attempts fail, in every worker, for a while."""
    request = api.InjectFaultRequest(
        job_type=job_type,
        error_code=code,
        rate=rate,
        ttl=to_duration(parse_duration(ttl)),
        reason=reason_of(reason),
        actor=actor_of(actor),
    )

    async def work(channel: grpc.aio.Channel, call: Caller) -> fault_pb2.Fault:
        return (await call(_stub(channel).InjectFault, request, repeatable=False)).fault

    _print(converse(address or ctx.obj.control, work), as_json)


@app.command("list")
def list_faults(
    ctx: typer.Context, active: Active = False, as_json: AsJson = False, address: Control = None
) -> None:
    """List faults, newest first; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[fault_pb2.Fault]:
        request = api.ListFaultsRequest(active_only=active)
        return await collect(call, _stub(channel).ListFaults, request, lambda page: page.faults)

    faults = converse(address or ctx.obj.control, read)
    if as_json:
        print_json_lines(faults)
    else:
        headings = ("FAULT", "JOB TYPE", "CODE", "RATE", "STATE", "INJECTED", "BY", "REASON")
        print_table(headings, map(_row, faults))


@app.command()
def stop(
    ctx: typer.Context,
    fault: FaultId,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """End a fault before its time."""
    request = api.StopFaultRequest(fault_id=fault, reason=reason_of(reason), actor=actor_of(actor))

    async def work(channel: grpc.aio.Channel, call: Caller) -> fault_pb2.Fault:
        return (await call(_stub(channel).StopFault, request)).fault

    _print(converse(address or ctx.obj.control, work), as_json)


def _stub(channel: grpc.aio.Channel) -> GameDayServiceAsyncStub:
    return game_day_service_pb2_grpc.GameDayServiceStub(channel)


def _print(fault: fault_pb2.Fault, as_json: bool) -> None:
    if as_json:
        print_json(fault)
    else:
        print_details(_details(fault))


def _row(fault: fault_pb2.Fault) -> tuple[Cell, ...]:
    injected = time_text(fault, "inject_time")
    share = f"{fault.rate:.0%}"
    what = (fault.fault_id, fault.job_type, fault.error_code, share, _state(fault))
    return (*what, injected, fault.actor, fault.reason)


def _details(fault: fault_pb2.Fault) -> Iterable[tuple[str, Cell]]:
    yield "fault", fault.fault_id
    yield "job type", fault.job_type
    yield "error code", fault.error_code
    yield "rate", f"{fault.rate:.0%}"
    yield "state", _state(fault)
    yield "injected", time_text(fault, "inject_time")
    yield "actor", fault.actor
    yield "reason", fault.reason
    yield "stopped", time_text(fault, "stop_time")
    yield "stopped by", fault.stop_actor
    yield "because", fault.stop_reason


def _state(fault: fault_pb2.Fault) -> str:
    if fault.HasField("remaining"):
        return f"{from_duration(fault.remaining).total_seconds():.0f} s left"
    return "stopped" if fault.HasField("stop_time") else "over"
