"""`selfheal job watch`: one job followed to its end, over gRPC."""

from __future__ import annotations

from collections.abc import Hashable

import grpc
import typer
from selfheal.jobs.v1 import job_pb2, job_service_pb2_grpc
from selfheal.jobs.v1 import job_service_pb2 as api

from jobkit.cli.arguments import Api, AsJson, JobId
from jobkit.cli.job_view import print_change
from jobkit.cli.output import print_json
from jobkit.cli.session import converse
from jobkit.client.calls import Caller
from jobkit.client.job import is_settled
from jobkit.client.wait import wait_once

LOOK = 0.5  # seconds between two looks at a job that runs


def watch(ctx: typer.Context, job_id: JobId, as_json: AsJson = False, address: Api = None) -> None:
    """Show each change of a job's state and progress until its end. Exit code 1 when it does not succeed; --json
    prints one document a change."""

    def show(job: job_pb2.Job) -> None:
        if as_json:
            print_json(job, indent=None)
        else:
            print_change(job)

    async def follow(channel: grpc.aio.Channel, call: Caller) -> job_pb2.Job:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        # The first look fails at once where there is no such job or no server; later ones go on when it is back.
        job: job_pb2.Job = (await call(stub.GetJob, api.GetJobRequest(job_id=job_id))).job
        show(job)
        while not is_settled(job):
            found = await wait_once(call, stub, job_id, LOOK)
            if found is not None:
                if _seen(found) != _seen(job):
                    show(found)
                job = found
        return job

    job = converse(address or ctx.obj.api, follow)
    if job.state != job_pb2.JOB_STATE_SUCCEEDED:
        raise typer.Exit(1)


def _seen(job: job_pb2.Job) -> Hashable:
    """What makes a line of its own."""
    return job.state, job.quarantine.reason, job.deliveries, job.progress.processed, job.progress.total
