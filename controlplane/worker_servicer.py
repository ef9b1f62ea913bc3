"""`selfheal.control.v1.WorkerService`."""

from __future__ import annotations

from typing import Any

from selfheal.control.v1 import worker_service_pb2 as wire
from selfheal.control.v1 import worker_service_pb2_grpc

from controlplane.worker_convert import convergence_to_wire, worker_to_wire
from controlplane.workers import WorkerDesk
from jobkit.domain.asked import page_size


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, desk: WorkerDesk) -> None:
        self._desk = desk

    async def ListWorkers(self, request: wire.ListWorkersRequest, context: Any) -> wire.ListWorkersResponse:
        size = page_size(request.page_size)
        page, following, convergence = await self._desk.page(request.page_token, size)
        return wire.ListWorkersResponse(
            workers=[worker_to_wire(view) for view in page],
            next_page_token=following,
            convergence=convergence_to_wire(convergence),
        )

    async def GetWorker(self, request: wire.GetWorkerRequest, context: Any) -> wire.GetWorkerResponse:
        return wire.GetWorkerResponse(worker=worker_to_wire(await self._desk.get(request.worker_id)))

    async def DrainWorker(self, request: wire.DrainWorkerRequest, context: Any) -> wire.DrainWorkerResponse:
        view = await self._desk.drain(request.worker_id, request.actor, request.reason)
        return wire.DrainWorkerResponse(worker=worker_to_wire(view))
