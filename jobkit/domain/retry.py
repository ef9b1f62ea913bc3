"""What follows from an outcome: pure decisions, applied by the settler."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from jobkit.domain.job import ClaimedJob, JobError, QuarantineReason
from jobkit.domain.lean import lean
from jobkit.domain.outcome import Convicted, Deferred, Failed, Interrupted, Outcome, Succeeded

# Milliseconds. Each step is a delay queue on the broker; longer waits stay in the database.
LADDER = (
    250, 500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000, 10000, 12000, 15000, 20000, 25000, 30000, 40000,
    60000,
)  # fmt: skip

# How long a suspect that could not be alone waits before the next try, ± 50 %: long enough for a process that starts
# nothing while it waits to get empty to get something done in between.
POSTPONED = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_attempts` counts handler runs; delay = base · 2ⁿ, capped at `max_delay`, ± `jitter`."""

    max_attempts: int = 4
    base_delay: timedelta = timedelta(seconds=5)
    max_delay: timedelta = timedelta(seconds=30)
    jitter: float = 0.2
    retry_permanent: bool = False


@lean
@dataclass(frozen=True, slots=True)
class Complete:
    """Record success."""

    result: bytes | None


@dataclass(frozen=True, slots=True)
class Retry:
    """Run again after `delay`. `counted` is False where the run burned no attempt."""

    delay: timedelta
    error: JobError | None
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Postpone:
    """Not started after all: again after `delay`, with nothing burned and nothing forgotten."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Isolate:
    """Quarantine for a person."""

    reason: QuarantineReason
    error: JobError


@dataclass(frozen=True, slots=True)
class Release:
    """Give the job back as it was, at once and unburned."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Record the cancellation."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The claim is somebody else's: write nothing."""


Decision = Complete | Retry | Postpone | Isolate | Release | Cancel | Forget


def backoff(policy: RetryPolicy, failures: int, fraction: float) -> timedelta:
    """Delay after the `failures`-th failure (from 1). `fraction` in [0, 1) is the jitter's random draw.

    Exponential backoff with proportional jitter, after "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    exponent = min(max(failures - 1, 0), 30)
    # In seconds, as floats: a timedelta of 2³⁰ days overflows.
    plain = timedelta(
        seconds=min(policy.base_delay.total_seconds() * 2**exponent, policy.max_delay.total_seconds())
    )
    return plain * (1 + policy.jitter * (2 * fraction - 1))


def ladder_step(delay: timedelta) -> int | None:
    """The nearest rung in milliseconds, or None when the wait is too long for the broker."""
    wanted = delay / timedelta(milliseconds=1)
    if wanted > LADDER[-1]:
        return None
    return min(LADDER, key=lambda step: abs(step - wanted))


def rung_at_least(delay: timedelta) -> int:
    """The first rung that outlasts `delay`; the last rung when none does."""
    wanted = delay / timedelta(milliseconds=1)
    return next((step for step in LADDER if step >= wanted), LADDER[-1])


def decide_next(
    outcome: Outcome, job: ClaimedJob, policy: RetryPolicy, fraction: float, *, probe: bool = False
) -> Decision:
    """What follows from `outcome`. A `probe` that fails with a counted code is refunded: it tested the
    dependency, not the job."""
    match outcome:
        case Succeeded(result):
            return Complete(result)
        case Deferred(after, message):
            return Retry(after, JobError("RETRY_LATER", message) if message else None, counted=False)
        case Interrupted.CANCELLED:
            return Cancel()
        case Interrupted.DRAINED:
            return Release()
        case Interrupted.LOST:
            return Forget()
        case Interrupted.POSTPONED:
            return Postpone(POSTPONED * (0.5 + fraction))  # spread: what was put off together meets again
        case Convicted(losses):
            message = f"the worker process died under it {losses} times in a row while it ran alone"
            return Isolate(QuarantineReason.POISON, JobError("WORKER_LOST", message, retryable=False))
        case Failed(error, counts):
            return _after_failure(error, counts and probe, job, policy, fraction)


def _after_failure(
    error: JobError, refunded: bool, job: ClaimedJob, policy: RetryPolicy, fraction: float
) -> Decision:
    failures = job.attempts - job.attempts_base + 1
    if not error.retryable and not policy.retry_permanent:
        return Isolate(QuarantineReason.NON_RETRYABLE, error)
    if refunded:
        return Retry(backoff(policy, failures, fraction), error, counted=False)
    if failures >= (job.max_attempts or policy.max_attempts):
        reason = QuarantineReason.RETRIES_EXHAUSTED if error.retryable else QuarantineReason.NON_RETRYABLE
        return Isolate(reason, error)
    return Retry(backoff(policy, failures, fraction), error)
