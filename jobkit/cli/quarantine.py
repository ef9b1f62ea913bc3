"""`selfheal quarantine …`: seeing what waits for a person, sending it back to work, giving it up. Over gRPC."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import grpc
import typer
from selfheal.control.v1 import quarantine_pb2, quarantine_service_pb2_grpc
from selfheal.control.v1 import quarantine_service_pb2 as api
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobkit.cli.arguments import (
    WAIT_SECONDS,
    Actor,
    Api,
    AsJson,
    Control,
    Reason,
    WaitCommand,
    actor_of,
    command_group,
    reason_of,
)
from jobkit.cli.job_view import print_jobs
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.quarantine_view import (
    ProgressLine,
    print_groups,
    print_redrive,
    print_redrives,
)
from jobkit.cli.session import collect, converse
from jobkit.client.calls import Caller

if TYPE_CHECKING:
    from selfheal.control.v1.quarantine_service_pb2_grpc import QuarantineServiceAsyncStub
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

FOR_A_PERSON = ("RETRIES_EXHAUSTED", "NON_RETRYABLE", "POISON")
LOOK_SECONDS = 0.5
PATIENCE = 300.0  # for one discarding call: it may be 10,000 jobs

app = command_group("Jobs that wait for a person: see them, send them back, give them up.")

Filter = Annotated[
    str, typer.Option(metavar="EXPRESSION", help='Such as: job_type = "email" AND error.code = API_TIMEOUT')
]
RedriveId = Annotated[str, typer.Argument(metavar="REDRIVE_ID", help="The redrive's id.")]
Limit = Annotated[int, typer.Option(min=1, help="How many to show at most.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell how many jobs match.")]


@app.command()
def groups(
    ctx: typer.Context,
    filter: Filter = "",
    limit: Limit = 50,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """List failures by type, error code and shape of the message, the largest first."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[quarantine_pb2.FailureGroup]:
        method, request = _stub(channel).ListFailureGroups, api.ListFailureGroupsRequest(filter=filter)
        return await collect(call, method, request, lambda page: page.failure_groups, limit)

    found = converse(address or ctx.obj.control, read)
    (print_json_lines if as_json else print_groups)(found)


@app.command("list")
def list_jobs(
    ctx: typer.Context, filter: Filter = "", limit: Limit = 50, as_json: AsJson = False, address: Api = None
) -> None:
    """List the jobs themselves, newest first; held ones, which flow again by themselves, are not among them."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[job_pb2.Job]:
        stub: JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(channel)
        found: list[job_pb2.Job] = []
        for reason in FOR_A_PERSON:
            terms = f"quarantine.reason = {reason}" + (f" AND {filter}" if filter.strip() else "")
            request = job_service_pb2.ListJobsRequest(filter=terms)
            found += await collect(call, stub.ListJobs, request, lambda page: page.jobs, limit)
        return sorted(found, key=lambda job: job.job_id, reverse=True)[:limit]

    found = converse(address or ctx.obj.api, read)
    (print_json_lines if as_json else print_jobs)(found)


@app.command(cls=WaitCommand)
def redrive(  # noqa: PLR0913, PLR0917 - one for each field of the request
    ctx: typer.Context,
    filter: Filter = "",
    rate: Annotated[
        float | None, typer.Option(help="Jobs a second of each type; adaptive when not given.")
    ] = None,
    reason: Reason = "",
    actor: Actor = None,
    request_id: Annotated[str, typer.Option(help="Idempotency key; made up when not given.")] = "",
    dry_run: DryRun = False,
    wait: Annotated[
        float | None,
        typer.Option(metavar="[SECONDS]", min=0, help=f"Show progress to the end, {WAIT_SECONDS} s at most."),
    ] = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Send quarantined jobs back to work. With --wait, exit code 1 if it is not done in time or jobs fail again."""
    request = api.RedriveJobsRequest(
        filter=filter,
        rate=rate,
        reason=reason if dry_run else reason_of(reason),
        actor=actor_of(actor),
        request_id=request_id or str(uuid4()),
        validate_only=dry_run,
    )

    async def begin(channel: grpc.aio.Channel, call: Caller) -> quarantine_pb2.Redrive:
        begun = (await call(_stub(channel).RedriveJobs, request)).redrive
        if wait is None or dry_run:
            return begun
        return await _follow(channel, call, begun, wait, quiet=as_json)

    found = converse(address or ctx.obj.control, begin)
    (print_json if as_json else print_redrive)(found)
    if wait is not None and not dry_run and not _went_well(found):
        raise typer.Exit(1)


@app.command()
def redrives(ctx: typer.Context, limit: Limit = 50, as_json: AsJson = False, address: Control = None) -> None:
    """List redrives, newest first."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[quarantine_pb2.Redrive]:
        method = _stub(channel).ListRedrives
        return await collect(call, method, api.ListRedrivesRequest(), lambda page: page.redrives, limit)

    found = converse(address or ctx.obj.control, read)
    (print_json_lines if as_json else print_redrives)(found)


@app.command()
def get(ctx: typer.Context, redrive_id: RedriveId, as_json: AsJson = False, address: Control = None) -> None:
    """Show one redrive and how far it is."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> quarantine_pb2.Redrive:
        return (await call(_stub(channel).GetRedrive, api.GetRedriveRequest(redrive_id=redrive_id))).redrive

    (print_json if as_json else print_redrive)(converse(address or ctx.obj.control, read))


@app.command()
def cancel(
    ctx: typer.Context,
    redrive_id: RedriveId,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """End a redrive: nothing more is sent, what was sent runs on."""
    request = api.CancelRedriveRequest(redrive_id=redrive_id, reason=reason_of(reason), actor=actor_of(actor))

    async def work(channel: grpc.aio.Channel, call: Caller) -> quarantine_pb2.Redrive:
        return (await call(_stub(channel).CancelRedrive, request)).redrive

    (print_json if as_json else print_redrive)(converse(address or ctx.obj.control, work))


@app.command()
def discard(
    ctx: typer.Context,
    filter: Filter,
    reason: Reason = "",
    actor: Actor = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Give quarantined jobs up for good: all that match."""
    request = api.DiscardJobsRequest(
        filter=filter,
        reason=reason if dry_run else reason_of(reason),
        actor=actor_of(actor),
        validate_only=dry_run,
    )

    async def work(channel: grpc.aio.Channel, call: Caller) -> api.DiscardJobsResponse:
        total = api.DiscardJobsResponse(more=True)
        while total.more:
            # One that is repeated after a lost answer discards no job twice, but could not count it.
            answer = await call(_stub(channel).DiscardJobs, request, timeout=PATIENCE, repeatable=False)
            total.count, total.more = total.count + answer.count, answer.more
        return total

    found = converse(address or ctx.obj.control, work)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found.count} jobs {'match' if dry_run else 'discarded'}")


async def _follow(
    channel: grpc.aio.Channel, call: Caller, begun: quarantine_pb2.Redrive, seconds: float, *, quiet: bool
) -> quarantine_pb2.Redrive:
    """The redrive when it has ended, or as it is after `seconds`; meanwhile a line on stderr that tells."""
    request = api.GetRedriveRequest(redrive_id=begun.redrive_id)
    end = asyncio.get_running_loop().time() + seconds
    found, line = begun, ProgressLine(sys.stderr)
    while found.state == quarantine_pb2.REDRIVE_STATE_RUNNING:
        if not quiet:
            line.tell(found)
        if asyncio.get_running_loop().time() >= end:
            break
        await asyncio.sleep(LOOK_SECONDS)
        found = (await call(_stub(channel).GetRedrive, request)).redrive
    line.leave()
    return found


def _went_well(found: quarantine_pb2.Redrive) -> bool:
    return found.state == quarantine_pb2.REDRIVE_STATE_DONE and not found.progress.failed


def _stub(channel: grpc.aio.Channel) -> QuarantineServiceAsyncStub:
    stub: QuarantineServiceAsyncStub = quarantine_service_pb2_grpc.QuarantineServiceStub(channel)
    return stub
