"""What follows from an outcome, and how long to wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobkit.domain.job import NO_TRACE, ClaimedJob, JobError, QuarantineReason
from jobkit.domain.outcome import Convicted, Deferred, Failed, Interrupted, Outcome, Succeeded
from jobkit.domain.retry import (
    LADDER,
    POSTPONED,
    Cancel,
    Complete,
    Decision,
    Forget,
    Isolate,
    Postpone,
    Release,
    Retry,
    RetryPolicy,
    backoff,
    decide_next,
    ladder_step,
    rung_at_least,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = ClaimedJob(
    job_id=UUID(int=1),
    job_type="email",
    payload=b"{}",
    delivery=1,
    attempts=0,
    attempts_base=0,
    losses=0,
    losses_alone=0,
    max_attempts=None,
    attempt_timeout=None,
    labels={},
    start_time=NOW,
    due_time=NOW,
    create_time=NOW,
    history=(),
    trace=NO_TRACE,
)
TIMED_OUT = JobError("API_TIMEOUT", "no answer")
INVALID = JobError("BAD_ADDRESS", "no such mailbox", retryable=False)
POLICY = RetryPolicy(max_attempts=4, base_delay=timedelta(seconds=5), max_delay=timedelta(seconds=30))
HALF = 0.5  # the middle of the jitter: none at all

EXHAUSTED = Isolate(QuarantineReason.RETRIES_EXHAUSTED, TIMED_OUT)
HOPELESS = Isolate(QuarantineReason.NON_RETRYABLE, INVALID)


def after(seconds: float, error: JobError | None = TIMED_OUT, *, counted: bool = True) -> Retry:
    return Retry(timedelta(seconds=seconds), error, counted)


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        (Succeeded(b'{"a": 1}'), Complete(b'{"a": 1}')),
        (Succeeded(), Complete(None)),
        (Interrupted.CANCELLED, Cancel()),
        (Interrupted.DRAINED, Release()),
        (Interrupted.LOST, Forget()),
        (Interrupted.POSTPONED, Postpone(POSTPONED)),
        (Deferred(timedelta(seconds=7)), after(7, None, counted=False)),
        (Deferred(timedelta(seconds=7), "later"), after(7, JobError("RETRY_LATER", "later"), counted=False)),
        (Deferred(timedelta(0), wide=True), after(0, None, counted=False)),
        (Failed(TIMED_OUT), after(5)),
        (Failed(TIMED_OUT, counts=False), after(5)),
        (Failed(INVALID), HOPELESS),
        (Failed(INVALID, counts=False), HOPELESS),
    ],
)
def test_what_follows_from_an_outcome(outcome: Outcome, decision: Decision) -> None:
    assert decide_next(outcome, JOB, POLICY, HALF) == decision


@pytest.mark.parametrize(
    ("attempts", "base", "own_limit", "decision"),
    [
        (0, 0, None, after(5)),
        (1, 0, None, after(10)),
        (2, 0, None, after(20)),
        (3, 0, None, EXHAUSTED),
        (9, 0, None, EXHAUSTED),
        (0, 0, 1, EXHAUSTED),
        (3, 0, 5, after(30)),  # 40 s, capped
        (4, 0, 5, EXHAUSTED),
        # A person granted more runs: only those since count.
        (4, 4, None, after(5)),
        (6, 4, None, after(20)),
        (7, 4, None, EXHAUSTED),
    ],
)
def test_failures_use_up_the_attempts_that_were_granted(
    attempts: int, base: int, own_limit: int | None, decision: Decision
) -> None:
    job = replace(JOB, attempts=attempts, attempts_base=base, max_attempts=own_limit)
    assert decide_next(Failed(TIMED_OUT), job, POLICY, HALF) == decision


def test_a_job_that_kills_its_process_while_alone_is_poison() -> None:
    decision = decide_next(Convicted(3), replace(JOB, losses=5, losses_alone=3), POLICY, HALF)
    assert isinstance(decision, Isolate)
    assert (decision.reason, decision.error.code) == (QuarantineReason.POISON, "WORKER_LOST")
    assert "3 times in a row" in decision.error.message
    assert not decision.error.retryable


def test_permanent_failures_may_be_made_to_use_up_their_retries() -> None:
    patient = replace(POLICY, retry_permanent=True)
    assert decide_next(Failed(INVALID), JOB, patient, HALF) == after(5, INVALID)
    assert decide_next(Failed(INVALID), replace(JOB, attempts=3), patient, HALF) == HOPELESS


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        (Failed(TIMED_OUT), after(30, counted=False)),  # refunded: it tested the dependency
        (Failed(TIMED_OUT, counts=False), EXHAUSTED),  # says nothing of the dependency
        (Failed(INVALID), HOPELESS),
        (Succeeded(), Complete(None)),
    ],
)
def test_a_probe_that_fails_with_a_counted_code_is_refunded(outcome: Outcome, decision: Decision) -> None:
    job = replace(JOB, attempts=3)
    assert decide_next(outcome, job, POLICY, HALF, probe=True) == decision


SPANS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=365))


@given(
    base=SPANS,
    cap=SPANS,
    jitter=st.floats(0, 1),
    failures=st.integers(-1, 10_000),
    fraction=st.floats(0, 1, exclude_max=True),
)
@example(timedelta(days=365), timedelta(days=365), 1.0, 10_000, 0.9999)
def test_a_delay_stays_within_its_jitter_of_the_capped_exponential(
    base: timedelta, cap: timedelta, jitter: float, failures: int, fraction: float
) -> None:
    policy = RetryPolicy(base_delay=base, max_delay=cap, jitter=jitter)
    plain = min(base.total_seconds() * 2 ** min(max(failures - 1, 0), 30), cap.total_seconds())
    delay = backoff(policy, failures, fraction).total_seconds()
    slack = 1e-5 + plain * 1e-9
    assert plain * (1 - jitter) - slack <= delay <= plain * (1 + jitter) + slack
    assert delay >= 0


@given(st.floats(0, 1, exclude_max=True))
def test_delays_do_not_shrink_while_failures_grow(fraction: float) -> None:
    delays = [backoff(POLICY, n, fraction) for n in range(1, 12)]
    assert all(shorter <= longer for shorter, longer in pairwise(delays))


def test_the_ladder_climbs() -> None:
    assert list(LADDER) == sorted(set(LADDER))


@pytest.mark.parametrize(
    ("seconds", "rung"),
    [(0, 250), (0.3, 250), (0.4, 500), (5, 5000), (5.4, 5000), (5.6, 6000), (60, 60000), (60.001, None)],
)
def test_a_wait_takes_the_nearest_rung(seconds: float, rung: int | None) -> None:
    assert ladder_step(timedelta(seconds=seconds)) == rung


@given(st.integers(0, 120_000))
def test_rungs_are_as_near_as_can_be_and_long_enough_where_that_is_asked(wanted: int) -> None:
    delay = timedelta(milliseconds=wanted)
    step = ladder_step(delay)
    assert (step is None) == (wanted > LADDER[-1])
    if step is not None:
        assert abs(step - wanted) == min(abs(rung - wanted) for rung in LADDER)
    lasting = rung_at_least(delay)
    assert lasting in LADDER
    assert lasting >= min(wanted, LADDER[-1])
    assert all(rung < wanted for rung in LADDER if rung < lasting)
