"""`selfheal worker list|get|drain`: the fleet, over gRPC. Draining asks for a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from selfheal.control.v1 import worker_pb2, worker_service_pb2_grpc
from selfheal.control.v1 import worker_service_pb2 as api

from jobkit.cli.arguments import Actor, AsJson, Control, Reason, actor_of, command_group, reason_of
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.session import converse
from jobkit.cli.worker_view import print_fleet, print_worker
from jobkit.client.calls import Caller, pages

if TYPE_CHECKING:
    from selfheal.control.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

app = command_group("See the fleet's workers and drain them; with no command: run a worker.")

Name = Annotated[str, typer.Argument(metavar="WORKER", help="The worker's id.")]


@app.command("list")
def list_workers(ctx: typer.Context, as_json: AsJson = False, address: Control = None) -> None:
    """List all workers, and how far what was pushed to them has come; --json prints one document a line."""

    async def read(
        channel: grpc.aio.Channel, call: Caller
    ) -> tuple[list[worker_pb2.Worker], list[worker_pb2.PushConvergence]]:
        stub: WorkerServiceAsyncStub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        workers: list[worker_pb2.Worker] = []
        async for page in pages(call, stub.ListWorkers, api.ListWorkersRequest()):
            workers += page.workers
        return workers, list(page.convergence)

    workers, convergence = converse(address or ctx.obj.control, read)
    if as_json:
        print_json_lines(workers)
    else:
        print_fleet(workers, convergence)


@app.command()
def get(ctx: typer.Context, worker: Name, as_json: AsJson = False, address: Control = None) -> None:
    """Show one worker: its figures by job type, and what was pushed to it."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> worker_pb2.Worker:
        stub: WorkerServiceAsyncStub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        return (await call(stub.GetWorker, api.GetWorkerRequest(worker_id=worker))).worker

    found = converse(address or ctx.obj.control, read)
    (print_json if as_json else print_worker)(found)


@app.command()
def drain(
    ctx: typer.Context,
    worker: Name,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Have a worker take no more work; what runs goes on to its end, and the process stays."""
    request = api.DrainWorkerRequest(worker_id=worker, reason=reason_of(reason), actor=actor_of(actor))

    async def work(channel: grpc.aio.Channel, call: Caller) -> worker_pb2.Worker:
        stub: WorkerServiceAsyncStub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        return (await call(stub.DrainWorker, request, repeatable=False)).worker

    drained = converse(address or ctx.obj.control, work)
    (print_json if as_json else print_worker)(drained)
