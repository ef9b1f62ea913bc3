"""What the client takes and gives: frozen dataclasses of plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from selfheal.jobs.v1 import job_pb2, job_service_pb2

from jobkit.client.payload import to_struct
from jobkit.domain.job import FINISHED, Attempt, JobError, JobState, QuarantineReason
from jobkit.rpc.convert import from_timestamp, struct_to_dict, to_duration

OnOpenChoice = Literal["hold", "reject"]
_ON_OPEN = {"hold": job_pb2.ON_OPEN_HOLD, "reject": job_pb2.ON_OPEN_REJECT}


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to submit. `attempt_timeout` is a timedelta or seconds; None leaves it to the server."""

    job_type: str
    payload: Mapping[str, object] = field(default_factory=dict)
    request_id: str | None = None
    max_attempts: int | None = None
    attempt_timeout: timedelta | float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_open: OnOpenChoice = "hold"

    def to_request(self) -> job_service_pb2.SubmitJobRequest:
        """Raises InvalidRequest for a payload without an exact form, ValueError for an unknown `on_open`."""
        if self.on_open not in _ON_OPEN:
            raise ValueError(f"on_open is 'hold' or 'reject', not {self.on_open!r}")
        request = job_service_pb2.SubmitJobRequest(
            job_type=self.job_type,
            payload=to_struct(self.payload),
            request_id=self.request_id or "",
            labels=self.labels,
            on_open=_ON_OPEN[self.on_open],
        )
        if self.max_attempts is not None:
            request.max_attempts = self.max_attempts
        if self.attempt_timeout is not None:
            length = timedelta(seconds=to_seconds(self.attempt_timeout))
            request.attempt_timeout.CopyFrom(to_duration(length))
        return request


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a job does not run, since when, and until when if that is known. `reason` is the name of a
    QuarantineReason."""

    reason: str
    breaker: str = ""
    since: datetime | None = None
    until: datetime | None = None


# Quarantined, and flowing again by themselves.
HELD = frozenset({QuarantineReason.BREAKER_OPEN, QuarantineReason.PAUSED})


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server told it. `state` is the name of a JobState (a later server may know more of them);
    `existed` is set where a submit met a request_id that had been seen before."""

    job_id: str
    job_type: str
    state: str
    payload: Mapping[str, object]
    labels: Mapping[str, str]
    request_id: str
    attempts: int
    deliveries: int
    holds: int
    max_attempts: int | None
    progress: tuple[int, int] | None
    result: Mapping[str, object] | None
    last_error: JobError | None
    quarantine: Quarantine | None
    create_time: datetime | None
    update_time: datetime | None
    start_time: datetime | None
    finish_time: datetime | None
    due_time: datetime | None
    attempt_history: tuple[Attempt, ...]
    traceparent: str
    note: str
    existed: bool = False

    @property
    def settled(self) -> bool:
        """Nothing more will happen by itself: finished, or quarantined for a person."""
        if self.state in FINISHED:
            return True
        return self.quarantine is not None and self.quarantine.reason not in HELD

    @property
    def succeeded(self) -> bool:
        return self.state == JobState.SUCCEEDED


def to_seconds(duration: timedelta | float) -> float:
    return duration / timedelta(seconds=1) if isinstance(duration, timedelta) else float(duration)


def is_settled(job: job_pb2.Job) -> bool:
    """`Job.settled` of a job still on the wire."""
    if state_name(job.state) in FINISHED:
        return True
    held = (job_pb2.QUARANTINE_REASON_BREAKER_OPEN, job_pb2.QUARANTINE_REASON_PAUSED)
    return job.HasField("quarantine") and job.quarantine.reason not in held


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """The short name: SUCCEEDED. A state of a later server is told by its number."""
    known = state in job_pb2.JobState.values()
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_") if known else f"STATE_{state}"


def reason_name(reason: job_pb2.QuarantineReason.ValueType) -> str:
    known = reason in job_pb2.QuarantineReason.values()
    return (
        job_pb2.QuarantineReason.Name(reason).removeprefix("QUARANTINE_REASON_")
        if known
        else f"REASON_{reason}"
    )


def from_message(job: job_pb2.Job, *, existed: bool = False) -> Job:
    return Job(
        job_id=job.job_id,
        job_type=job.job_type,
        state=state_name(job.state),
        payload=struct_to_dict(job.payload),
        labels=dict(job.labels),
        request_id=job.request_id,
        attempts=job.attempts,
        deliveries=job.deliveries,
        holds=job.holds,
        max_attempts=job.max_attempts or None,
        progress=(job.progress.processed, job.progress.total) if job.HasField("progress") else None,
        result=struct_to_dict(job.result) if job.HasField("result") else None,
        last_error=_error(job.last_error) if job.HasField("last_error") else None,
        quarantine=_quarantine(job.quarantine) if job.HasField("quarantine") else None,
        create_time=from_timestamp(job.create_time) if job.HasField("create_time") else None,
        update_time=from_timestamp(job.update_time) if job.HasField("update_time") else None,
        start_time=from_timestamp(job.start_time) if job.HasField("start_time") else None,
        finish_time=from_timestamp(job.finish_time) if job.HasField("finish_time") else None,
        due_time=from_timestamp(job.due_time) if job.HasField("due_time") else None,
        attempt_history=tuple(_attempt(attempt) for attempt in job.attempt_history),
        traceparent=job.traceparent,
        note=job.note,
        existed=existed,
    )


def _error(error: job_pb2.JobError) -> JobError:
    return JobError(error.code, error.message, error.retryable)


def _quarantine(quarantine: job_pb2.Quarantine) -> Quarantine:
    return Quarantine(
        reason=reason_name(quarantine.reason),
        breaker=quarantine.breaker,
        since=from_timestamp(quarantine.since) if quarantine.HasField("since") else None,
        until=from_timestamp(quarantine.until) if quarantine.HasField("until") else None,
    )


def _attempt(attempt: job_pb2.JobAttempt) -> Attempt:
    return Attempt(
        delivery=attempt.delivery,
        worker_id=attempt.worker_id,
        start_time=from_timestamp(attempt.start_time),
        finish_time=from_timestamp(attempt.finish_time) if attempt.HasField("finish_time") else None,
        error=_error(attempt.error) if attempt.HasField("error") else None,
    )
