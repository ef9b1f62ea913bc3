"""QuarantineService over the jobs of `fake_server.Memory`: redrives that never get further than their beginning."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from selfheal.control.v1 import quarantine_pb2, quarantine_service_pb2_grpc
from selfheal.control.v1 import quarantine_service_pb2 as api
from selfheal.jobs.v1 import job_pb2

from jobkit.domain.errors import NotFound

if TYPE_CHECKING:
    from tests.unit.fake_server import Memory


class FakeQuarantineService(quarantine_service_pb2_grpc.QuarantineServiceServicer):
    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.redrives: dict[str, quarantine_pb2.Redrive] = {}

    def ListFailureGroups(self, request, context):
        def work():
            group = quarantine_pb2.FailureGroup(failure_group="0" * 16, count=len(self._quarantined()))
            return api.ListFailureGroupsResponse(failure_groups=[group])

        return self.memory.serve(context, request, work)

    def RedriveJobs(self, request, context):
        def work():
            redrive = quarantine_pb2.Redrive(
                filter=request.filter, actor=request.actor or "anonymous", reason=request.reason
            )
            redrive.progress.total = len(self._quarantined())
            if not request.validate_only:
                redrive.redrive_id = str(uuid.uuid4())
                redrive.state = quarantine_pb2.REDRIVE_STATE_RUNNING
                self.redrives[redrive.redrive_id] = redrive
            return api.RedriveJobsResponse(redrive=redrive)

        return self.memory.serve(context, request, work)

    def GetRedrive(self, request, context):
        return self.memory.serve(
            context, request, lambda: api.GetRedriveResponse(redrive=self._get(request.redrive_id))
        )

    def ListRedrives(self, request, context):
        redrives = list(self.redrives.values())
        return self.memory.serve(context, request, lambda: api.ListRedrivesResponse(redrives=redrives))

    def CancelRedrive(self, request, context):
        def work():
            redrive = self._get(request.redrive_id)
            redrive.state = quarantine_pb2.REDRIVE_STATE_CANCELLED
            return api.CancelRedriveResponse(redrive=redrive)

        return self.memory.serve(context, request, work)

    def DiscardJobs(self, request, context):
        def work():
            found = self._quarantined()
            for job in found:
                job.state = job_pb2.JOB_STATE_DISCARDED
                job.ClearField("quarantine")
            return api.DiscardJobsResponse(count=len(found))

        return self.memory.serve(context, request, work)

    def _quarantined(self) -> list[job_pb2.Job]:
        held = job_pb2.QUARANTINE_REASON_BREAKER_OPEN
        return [
            job
            for job in self.memory.jobs.values()
            if job.HasField("quarantine") and job.quarantine.reason != held
        ]

    def _get(self, redrive_id: str) -> quarantine_pb2.Redrive:
        if redrive_id not in self.redrives:
            raise NotFound("redrive", redrive_id)
        return self.redrives[redrive_id]
