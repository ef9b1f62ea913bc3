"""`selfheal job …`: one command for each call of JobService, over gRPC."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import grpc
import typer
from selfheal.jobs.v1 import job_pb2, job_service_pb2_grpc
from selfheal.jobs.v1 import job_service_pb2 as api

from jobkit.cli.arguments import WAIT_SECONDS, Api, AsJson, JobId, WaitCommand, command_group
from jobkit.cli.job_view import print_job, print_jobs
from jobkit.cli.job_watch import watch
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.session import collect, converse
from jobkit.cli.values import parse_duration, parse_labels, read_payload
from jobkit.client.calls import Caller
from jobkit.client.errors import InvalidRequest, JobClientError
from jobkit.client.job import Submission, is_settled
from jobkit.client.payload import to_struct
from jobkit.client.wait import wait_settled

if TYPE_CHECKING:
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub


app = command_group("Submit jobs, follow and steer them.")

Work = Callable[["JobServiceAsyncStub", Caller], Awaitable[job_pb2.Job]]


class OnOpen(StrEnum):
    HOLD = "hold"
    REJECT = "reject"


@app.command(cls=WaitCommand)
def submit(  # noqa: PLR0913, PLR0917 - one for each field of a submit
    ctx: typer.Context,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The kind of work.")],
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD", help="A JSON object, - for stdin or @file.")
    ] = "{}",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Repeatable.")] = None,
    request_id: Annotated[str, typer.Option(help="Idempotency key; made up when not given.")] = "",
    max_attempts: Annotated[int | None, typer.Option(min=1, max=100, help="Handler runs to grant.")] = None,
    attempt_timeout: Annotated[str, typer.Option(metavar="DURATION", help="30, 45s, 10m.")] = "",
    on_open: Annotated[OnOpen, typer.Option(help="While the type's breaker is open.")] = OnOpen.HOLD,
    wait: Annotated[
        float | None,
        typer.Option(metavar="[SECONDS]", min=0, help=f"Wait for the end, {WAIT_SECONDS} s by default."),
    ] = None,
    as_json: AsJson = False,
    address: Api = None,
) -> None:
    """Submit a job. With --wait, exit code 1 when it does not succeed in time."""
    submission = Submission(
        job_type=job_type,
        payload=read_payload(payload),
        request_id=request_id or str(uuid4()),
        max_attempts=max_attempts,
        attempt_timeout=parse_duration(attempt_timeout) if attempt_timeout else None,
        labels=parse_labels(label or []),
        on_open=on_open.value,
    )
    send = _sending(submission, tell_existed=bool(request_id))
    if wait is None:
        _show(_ask(ctx, address, send), as_json)
    else:
        _wait(ctx, address, send, wait, as_json)


@app.command()
def get(ctx: typer.Context, job_id: JobId, as_json: AsJson = False, address: Api = None) -> None:
    """Show one job."""

    async def read(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        return (await call(stub.GetJob, api.GetJobRequest(job_id=job_id))).job

    _show(_ask(ctx, address, read), as_json)


@app.command("list")
def list_jobs(
    ctx: typer.Context,
    filter: Annotated[
        str, typer.Option(metavar="EXPRESSION", help='Such as: state = RUNNING AND job_type = "email"')
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Jobs to show at most.")] = 50,
    as_json: AsJson = False,
    address: Api = None,
) -> None:
    """List jobs, newest first; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[job_pb2.Job]:
        stub: JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(channel)
        request = api.ListJobsRequest(filter=filter)
        return await collect(call, stub.ListJobs, request, lambda page: page.jobs, limit)

    jobs = converse(address or ctx.obj.api, read)
    (print_json_lines if as_json else print_jobs)(jobs)


@app.command()
def wait(
    ctx: typer.Context,
    job_id: JobId,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long at most.")
    ] = WAIT_SECONDS,
    as_json: AsJson = False,
    address: Api = None,
) -> None:
    """Wait for a job's end. Exit code 1 when it does not succeed in time."""

    async def read(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        return (await call(stub.GetJob, api.GetJobRequest(job_id=job_id))).job

    _wait(ctx, address, read, timeout, as_json)


app.command()(watch)


@app.command()
def cancel(ctx: typer.Context, job_id: JobId, as_json: AsJson = False, address: Api = None) -> None:
    """Cancel a job that waits, or ask a running one to stop."""

    async def work(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        request = api.CancelJobRequest(job_id=job_id)
        return (await call(stub.CancelJob, request, repeatable=False)).job

    _show(_ask(ctx, address, work), as_json)


@app.command()
def retry(
    ctx: typer.Context,
    job_id: JobId,
    payload: Annotated[
        str, typer.Option(metavar="PAYLOAD", help="Replace the payload: a JSON object, - or @file.")
    ] = "",
    as_json: AsJson = False,
    address: Api = None,
) -> None:
    """Send a quarantined job back to work."""
    request = api.RetryJobRequest(job_id=job_id)
    if payload:
        try:
            request.payload.CopyFrom(to_struct(read_payload(payload)))
        except InvalidRequest as error:
            raise typer.BadParameter(error.message) from None

    async def work(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        return (await call(stub.RetryJob, request, repeatable=False)).job

    _show(_ask(ctx, address, work), as_json)


@app.command()
def discard(ctx: typer.Context, job_id: JobId, as_json: AsJson = False, address: Api = None) -> None:
    """Give a quarantined or held job up for good."""

    async def work(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        request = api.DiscardJobRequest(job_id=job_id)
        return (await call(stub.DiscardJob, request, repeatable=False)).job

    _show(_ask(ctx, address, work), as_json)


def _sending(submission: Submission, *, tell_existed: bool) -> Work:
    """The submit as work. `tell_existed`: a key that we made up was only seen before if an answer got lost."""
    try:
        request = submission.to_request()
    except InvalidRequest as error:
        raise typer.BadParameter(error.message) from None
    except ValueError as error:  # text that is not Unicode
        raise typer.BadParameter(str(error)) from None

    async def send(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        try:
            answer = await call(stub.SubmitJob, request)
        except JobClientError as error:
            error.metadata.setdefault("request_id", request.request_id)
            raise
        if answer.existed and tell_existed:
            typer.echo(f"request id {request.request_id} was seen before: this is the earlier job", err=True)
        return answer.job

    return send


def _ask(ctx: typer.Context, address: str | None, work: Work) -> job_pb2.Job:
    async def talk(channel: grpc.aio.Channel, call: Caller) -> job_pb2.Job:
        return await work(job_service_pb2_grpc.JobServiceStub(channel), call)

    return converse(address or ctx.obj.api, talk)


def _wait(ctx: typer.Context, address: str | None, first: Work, seconds: float, as_json: bool) -> None:
    """`first` finds the job at once or fails at once; only then is waited. A job that has not settled in time
    is shown as it is."""

    async def follow(stub: JobServiceAsyncStub, call: Caller) -> job_pb2.Job:
        job = await first(stub, call)
        if is_settled(job):
            return job
        try:
            return await wait_settled(call, stub, job.job_id, seconds)
        except TimeoutError as late:
            sys.stderr.write(f"error: {late}\n")
            return (await call(stub.GetJob, api.GetJobRequest(job_id=job.job_id))).job

    job = _ask(ctx, address, follow)
    _show(job, as_json)
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        raise typer.Exit(1)


def _show(job: job_pb2.Job, as_json: bool) -> None:
    (print_json if as_json else print_job)(job)
