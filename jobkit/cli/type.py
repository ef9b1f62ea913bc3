"""`selfheal type …`: seeing job types, pausing and limiting them, over gRPC. Every move asks for a reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from selfheal.control.v1 import job_type_pb2, job_type_service_pb2_grpc
from selfheal.control.v1 import job_type_service_pb2 as api

from jobkit.cli.arguments import Actor, AsJson, Control, Reason, actor_of, command_group, reason_of
from jobkit.cli.breaker import Until, until_of
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.session import collect, converse
from jobkit.cli.type_view import print_type, print_types
from jobkit.client.calls import Caller

if TYPE_CHECKING:
    from selfheal.control.v1.job_type_service_pb2_grpc import JobTypeServiceAsyncStub

app = command_group("See job types, pause and limit them.")

Name = Annotated[str, typer.Argument(metavar="TYPE", help="The job type.")]
Slots = Annotated[
    str,
    typer.Argument(metavar="N|none", help="Attempts of the whole fleet at once; none: as many as it can."),
]
Work = Callable[["JobTypeServiceAsyncStub", Caller], Awaitable[job_type_pb2.JobType]]


@app.command("list")
def list_types(ctx: typer.Context, as_json: AsJson = False, address: Control = None) -> None:
    """List all job types by name; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[job_type_pb2.JobType]:
        stub: JobTypeServiceAsyncStub = job_type_service_pb2_grpc.JobTypeServiceStub(channel)
        return await collect(call, stub.ListJobTypes, api.ListJobTypesRequest(), lambda page: page.job_types)

    types = converse(address or ctx.obj.control, read)
    (print_json_lines if as_json else print_types)(types)


@app.command()
def get(ctx: typer.Context, job_type: Name, as_json: AsJson = False, address: Control = None) -> None:
    """Show one job type."""

    async def read(stub: JobTypeServiceAsyncStub, call: Caller) -> job_type_pb2.JobType:
        return (await call(stub.GetJobType, api.GetJobTypeRequest(job_type=job_type))).job_type

    _run(ctx, address, read, as_json)


@app.command()
def pause(
    ctx: typer.Context,
    job_type: Name,
    reason: Reason = "",
    actor: Actor = None,
    until: Until = "",
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Hold a type's jobs in their place, until a time or until somebody resumes it."""
    end = until_of(until)
    request = api.PauseJobTypeRequest(
        job_type=job_type, reason=reason_of(reason), actor=actor_of(actor), until=end
    )

    async def work(stub: JobTypeServiceAsyncStub, call: Caller) -> job_type_pb2.JobType:
        return (await call(stub.PauseJobType, request, repeatable=False)).job_type

    _run(ctx, address, work, as_json)


@app.command()
def resume(
    ctx: typer.Context,
    job_type: Name,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """End a pause."""
    request = api.ResumeJobTypeRequest(job_type=job_type, reason=reason_of(reason), actor=actor_of(actor))

    async def work(stub: JobTypeServiceAsyncStub, call: Caller) -> job_type_pb2.JobType:
        return (await call(stub.ResumeJobType, request, repeatable=False)).job_type

    _run(ctx, address, work, as_json)


@app.command()
def limit(
    ctx: typer.Context,
    job_type: Name,
    slots: Slots,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Let the whole fleet run at most N attempts of a type at once; `none` lifts that."""
    if slots != "none" and not (slots.isascii() and slots.isdecimal() and int(slots) >= 1):
        raise typer.BadParameter(f"{slots!r} is neither a number from 1 on nor `none`", param_hint="N")
    request = api.UpdateJobTypeLimitsRequest(
        job_type=job_type,
        concurrency=None if slots == "none" else int(slots),
        reason=reason_of(reason),
        actor=actor_of(actor),
    )

    async def work(stub: JobTypeServiceAsyncStub, call: Caller) -> job_type_pb2.JobType:
        return (await call(stub.UpdateJobTypeLimits, request, repeatable=False)).job_type

    _run(ctx, address, work, as_json)


def _run(ctx: typer.Context, address: str | None, work: Work, as_json: bool) -> None:
    async def talk(channel: grpc.aio.Channel, call: Caller) -> job_type_pb2.JobType:
        return await work(job_type_service_pb2_grpc.JobTypeServiceStub(channel), call)

    one = converse(address or ctx.obj.control, talk)
    (print_json if as_json else print_type)(one)
