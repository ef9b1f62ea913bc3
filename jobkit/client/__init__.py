"""The client that programs submit jobs with; `from jobkit import JobClient` is the short way here."""

from jobkit.client.errors import (
    DeadlineExceeded,
    Exhausted,
    InvalidRequest,
    JobClientError,
    NotFound,
    RequestIdReused,
    Unavailable,
    WrongState,
)
from jobkit.client.job import Job, Quarantine, Submission
from jobkit.client.jobs import JobClient
from jobkit.domain.errors import FieldViolation
from jobkit.domain.job import Attempt, JobError, JobState, QuarantineReason

__all__ = [
    "Attempt",
    "DeadlineExceeded",
    "Exhausted",
    "FieldViolation",
    "InvalidRequest",
    "Job",
    "JobClient",
    "JobClientError",
    "JobError",
    "JobState",
    "NotFound",
    "Quarantine",
    "QuarantineReason",
    "RequestIdReused",
    "Submission",
    "Unavailable",
    "WrongState",
]
