"""How the story ended: the incident's own record and every single job, asked for when all is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from selfheal.control.v1 import breaker_service_pb2 as api
from selfheal.control.v1 import breaker_service_pb2_grpc, incident_pb2

from jobkit.cli.demo.bank import Bank
from jobkit.cli.demo.handlers import PAYMENT, THUMBNAIL
from jobkit.client import Job, JobClient
from jobkit.client.calls import Caller
from jobkit.rpc.convert import from_duration

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Count:
    """One type's jobs. `attempts` is what its jobs say that they have used up."""

    jobs: int = 0
    succeeded: int = 0
    attempts: int = 0
    most_attempts: int = 0


@dataclass(frozen=True, slots=True)
class Calls:
    """What the bank saw."""

    calls: int
    hung_up: int
    busy: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`through_outage`: thumbnails that were drawn while payments were held."""

    incidents: tuple[incident_pb2.Incident, ...]
    payments: Count
    thumbnails: Count
    calls: Calls
    through_outage: int

    @property
    def incident(self) -> incident_pb2.Incident:
        return self.incidents[0] if self.incidents else incident_pb2.Incident()

    @property
    def burned(self) -> int:
        """Attempts that payments lost without calling the bank, which is all that being held could cost. Failed
        probes called it and are refunded."""
        probes = sum(one.reopened for one in self.incidents)
        return self.payments.attempts - (self.calls.calls - probes)

    @property
    def objections(self) -> tuple[str, ...]:
        """Why this was not the story that was promised; empty when it was."""
        return tuple(self._objections())

    def _objections(self) -> Iterator[str]:
        if not self.incidents:
            yield "the breaker never opened"
            return
        if len(self.incidents) > 1:
            yield f"the breaker opened {len(self.incidents)} times: the way back knocked the bank over again"
        if not self.incident.HasField("close_time"):
            yield "the breaker never closed"
        if not self.incident.jobs_held:
            yield "no job was held"
        if self.burned > 0:
            yield f"being held cost {self.burned} attempts"
        for name, count in ((PAYMENT, self.payments), (THUMBNAIL, self.thumbnails)):
            if not count.jobs or count.succeeded < count.jobs:
                yield f"{count.succeeded} of {count.jobs} {name}s are done"
        if not self.through_outage or self.thumbnails.attempts > self.thumbnails.jobs:
            yield "thumbnails suffered from an outage that was none of theirs"


async def judge(control: grpc.aio.Channel, client: JobClient, bank: Bank, through_outage: int) -> Verdict:
    """Raises JobClientError."""
    stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(control)
    answer = await Caller(timeout=10)(stub.ListIncidents, api.ListIncidentsRequest(breaker=PAYMENT))
    jobs = [job async for job in client.list(page_size=1000)]
    return Verdict(
        incidents=tuple(answer.incidents),
        payments=_count(job for job in jobs if job.job_type == PAYMENT),
        thumbnails=_count(job for job in jobs if job.job_type == THUMBNAIL),
        calls=Calls(bank.calls, bank.hung_up, bank.busy),
        through_outage=through_outage,
    )


def _count(jobs: Iterable[Job]) -> Count:
    known = list(jobs)
    return Count(
        jobs=len(known),
        succeeded=sum(job.succeeded for job in known),
        attempts=sum(job.attempts for job in known),
        most_attempts=max((job.attempts for job in known), default=0),
    )


def summary(verdict: Verdict) -> list[tuple[str, str, str]]:
    """What, how much, and what that means."""
    incident = verdict.incident
    detect, recover = (
        f"{from_duration(length).total_seconds():.1f} s"
        for length in (incident.time_to_detect, incident.time_to_recover)
    )
    payments, thumbnails = verdict.payments, verdict.thumbnails
    return [
        ("time to detect", detect, "from the first failed payment to the open breaker"),
        ("time to recover", recover, "from opening to closing; nobody lifted a finger"),
        ("jobs held", f"{incident.jobs_held}", "at once, at the worst moment; in order, at no cost each"),
        ("attempts burned by being held", f"{max(verdict.burned, 0)}", "a hold is not a failure"),
        (
            "attempts saved",
            f"{incident.attempts_saved}",
            "retries against a dead bank would have used these up",
        ),
        ("calls avoided", f"{incident.calls_avoided}", "that the bank was spared while it was down"),
        (
            "calls wasted",
            f"{verdict.calls.hung_up}",
            f"to the dead bank, {incident.reopened} of them probes",
        ),
        ("refused while draining", f"{verdict.calls.busy}", "calls above what the bank can bear"),
        (
            "payments done",
            f"{payments.succeeded} of {payments.jobs}",
            f"{payments.most_attempts} attempts at most",
        ),
        ("thumbnails done", f"{thumbnails.succeeded} of {thumbnails.jobs}", "each at the first attempt"),
    ]
