"""This worker as a member of the fleet: who it is, how it does, and what it does when it is told something."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from google.protobuf.any_pb2 import Any as AnyMessage
from selfheal.control.v1 import control_stream_pb2 as wire
from selfheal.control.v1.breaker_policy_pb2 import BreakerPolicy

from jobkit import __version__
from jobkit.rpc.breakers import snapshot_from_wire
from jobkit.rpc.catalog import type_from_wire
from jobkit.rpc.faults import fault_from_wire
from jobkit.rpc.policies import set_from_wire
from worker.control import Control
from worker.figures import resident_memory
from worker.organs import Organs
from worker.pushes import Applier, Pushes, unpacked
from worker.reports import Reports
from worker.settings import WorkerSettings
from worker.stream import StreamParts


class Member:
    """`retired` is called when an operator drains this worker: readiness goes off as it does on SIGTERM."""

    def __init__(
        self, organs: Organs, settings: WorkerSettings, retired: Callable[[], Awaitable[None]]
    ) -> None:
        self._organs = organs
        self._settings = settings
        self._retired = retired

    def control(self) -> Control:
        """The stream's client; nothing runs yet."""
        reports = Reports()
        self._organs.breakers.on_moved = reports.moved
        parts = StreamParts(
            self.hello, self.heartbeat, Pushes(self.appliers()), reports, {"drain": self._drain}
        )
        return Control(self._settings.controlplane_addr, parts)

    def appliers(self) -> Mapping[str, Applier]:
        """By kind. A further kind is one more entry here and one more source in the control plane."""
        return {
            "breakers": self._apply_breakers,
            "job_types": self._apply_job_types,
            "faults": self._apply_faults,
            "policies": self._apply_policies,
        }

    def hello(self) -> wire.WorkerHello:
        organs = self._organs
        return wire.WorkerHello(
            worker_id=organs.worker_id,
            instance_id=organs.instance_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            release=__version__,
            job_types=organs.lanes.serves,
            slots=self._settings.max_concurrency,
        )

    def heartbeat(self, sequence: int) -> wire.WorkerHeartbeat:
        figures = self._organs.figures
        return wire.WorkerHeartbeat(
            sequence=sequence,
            slots_used=figures.slots_used,
            memory_bytes=resident_memory(),
            draining=self._organs.lanes.draining,
            types=[
                wire.WorkerHeartbeat.TypeFigures(
                    job_type=name, in_flight=running, processed=processed, failed=failed
                )
                for name, running, processed, failed in figures.take()
            ],
        )

    async def _apply_breakers(self, resources: Sequence[AnyMessage]) -> None:
        told = unpacked(resources, wire.BreakerSnapshot)
        now = await self._organs.breakers.now()
        await self._organs.breakers.hear([snapshot_from_wire(snapshot, now) for snapshot in told])

    async def _apply_job_types(self, resources: Sequence[AnyMessage]) -> None:
        """Pauses and limits are in force at once; of types that are new the database says more."""
        told = [type_from_wire(one) for one in unpacked(resources, wire.JobTypeSnapshot)]
        self._organs.limits.hear({info.job_type: info for info in told})
        self._organs.lanes.expect([info.job_type for info in told])

    async def _apply_policies(self, resources: Sequence[AnyMessage]) -> None:
        self._organs.breakers.apply(set_from_wire(unpacked(resources, BreakerPolicy)))

    async def _apply_faults(self, resources: Sequence[AnyMessage]) -> None:
        self._organs.faults.hear([fault_from_wire(one) for one in unpacked(resources, wire.FaultSnapshot)])

    async def _drain(self, command: wire.Command) -> None:
        await self._organs.retire(command.drain.actor, command.drain.reason)
        await self._retired()
