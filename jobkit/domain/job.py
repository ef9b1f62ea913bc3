"""The job: its states, what is submitted, what is claimed, and what a reader sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from jobkit.domain.lean import lean

DEFAULT_ERROR_CODES = frozenset({"API_TIMEOUT", "NETWORK_ERROR", "VALIDATION_ERROR"})
HISTORY_LIMIT = 20


class JobState(StrEnum):
    """As stored. A held job is stored as it waits and *reads* as QUARANTINED."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    QUARANTINED = "QUARANTINED"
    SUCCEEDED = "SUCCEEDED"
    CANCELLED = "CANCELLED"
    DISCARDED = "DISCARDED"

    @property
    def waiting(self) -> bool:
        return self in WAITING

    @property
    def finished(self) -> bool:
        return self in FINISHED


WAITING = frozenset({JobState.PENDING, JobState.QUEUED, JobState.RETRYING})
FINISHED = frozenset({JobState.SUCCEEDED, JobState.CANCELLED, JobState.DISCARDED})

# What may follow what. The SQL adapter's WHERE clauses say the same; the model test compares both.
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED, JobState.DISCARDED}),
    JobState.QUEUED: frozenset(
        {
            JobState.PENDING,  # the broker did not take its token
            JobState.RUNNING,
            JobState.CANCELLED,
            JobState.DISCARDED,
        }
    ),
    JobState.RUNNING: frozenset(
        {
            JobState.RUNNING,  # taken over after its lease ran out
            JobState.QUEUED,  # released: a drain, a rescue
            JobState.SUCCEEDED,
            JobState.RETRYING,
            JobState.QUARANTINED,
            JobState.CANCELLED,
        }
    ),
    JobState.RETRYING: frozenset({JobState.RUNNING, JobState.QUEUED, JobState.CANCELLED, JobState.DISCARDED}),
    JobState.QUARANTINED: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.DISCARDED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.DISCARDED: frozenset(),
}


class QuarantineReason(StrEnum):
    """Why a job does not run. The first two are derived from its type's hold, the others are stored."""

    BREAKER_OPEN = "BREAKER_OPEN"
    PAUSED = "PAUSED"
    RETRIES_EXHAUSTED = "RETRIES_EXHAUSTED"
    NON_RETRYABLE = "NON_RETRYABLE"
    POISON = "POISON"

    @property
    def by_hold(self) -> bool:
        """Whether it ends by itself, with the hold of the job's type."""
        return self in (QuarantineReason.BREAKER_OPEN, QuarantineReason.PAUSED)


class OnOpen(StrEnum):
    """What a submit does while the breaker of its type is open."""

    HOLD = "HOLD"
    REJECT = "REJECT"


@lean
@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context, as the three header values; "" where absent. A `fresh` one was made up for a caller who
    brought none, so that nobody has decided yet whether to record it."""

    traceparent: str = ""
    tracestate: str = ""
    baggage: str = ""
    fresh: bool = False


NO_TRACE = TraceContext()


@lean
@dataclass(frozen=True, slots=True)
class Token:
    """What lies on the queue: which job may run next. `attempt` is from 1."""

    job_id: UUID
    job_type: str
    attempt: int = 1
    trace: TraceContext = NO_TRACE


@lean
@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated submit. `payload` is a JSON object in UTF-8; `content_hash` decides whether a repeated
    `request_id` carries the same content."""

    job_id: UUID
    job_type: str
    payload: bytes
    request_id: str = ""
    content_hash: bytes = b""
    max_attempts: int | None = None
    attempt_timeout: timedelta | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_open: OnOpen = OnOpen.HOLD
    trace: TraceContext = NO_TRACE


@dataclass(frozen=True, slots=True)
class JobError:
    """How an attempt failed. `code` is `[A-Za-z0-9_]{1,64}`."""

    code: str
    message: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of the handler; `error` is None for a success, `finish_time` None while it runs."""

    delivery: int
    worker_id: str
    start_time: datetime
    finish_time: datetime | None = None
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a job does not run, since when, and until when if that is known."""

    reason: QuarantineReason
    since: datetime
    breaker: str = ""
    until: datetime | None = None


@lean
@dataclass(frozen=True, slots=True)
class Job:
    """A job as a reader sees it: a held one has state QUARANTINED and says why."""

    job_id: UUID
    job_type: str
    state: JobState
    payload: bytes
    create_time: datetime
    update_time: datetime
    due_time: datetime
    request_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 0
    deliveries: int = 0
    holds: int = 0
    max_attempts: int | None = None
    progress: tuple[int, int] | None = None
    result: bytes | None = None
    last_error: JobError | None = None
    quarantine: Quarantine | None = None
    start_time: datetime | None = None
    finish_time: datetime | None = None
    history: tuple[Attempt, ...] = ()
    trace: TraceContext = NO_TRACE

    @property
    def settled(self) -> bool:
        """Nothing more will happen by itself: finished, or quarantined for a person."""
        if self.state.finished:
            return True
        return self.quarantine is not None and not self.quarantine.reason.by_hold


@lean
@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """What a worker gets with a claim. `delivery` is the fence: renewal, progress and settle carry it.

    `attempts_base` is the value of `attempts` when runs were last granted, so that `attempts - attempts_base`
    failures stand against the limit. `losses` counts claims in a row that ended by lease expiry,
    `losses_alone` those of them that ran with nothing beside them in their process.
    """

    job_id: UUID
    job_type: str
    payload: bytes
    delivery: int
    attempts: int
    attempts_base: int
    losses: int
    losses_alone: int
    max_attempts: int | None
    attempt_timeout: timedelta | None
    labels: Mapping[str, str]
    start_time: datetime
    due_time: datetime
    create_time: datetime
    history: tuple[Attempt, ...]
    trace: TraceContext
