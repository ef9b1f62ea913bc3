"""The states of a job and what may follow what."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from jobkit.domain.job import (
    FINISHED,
    TRANSITIONS,
    WAITING,
    Job,
    JobState,
    Quarantine,
    QuarantineReason,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(state: JobState, reason: QuarantineReason | None = None) -> Job:
    quarantine = None if reason is None else Quarantine(reason, NOW)
    return Job(UUID(int=1), "email", state, b"{}", NOW, NOW, NOW, quarantine=quarantine)


def test_every_state_says_what_may_follow() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_a_finished_state_is_left_by_nothing_and_every_other_by_something() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == FINISHED


def test_waiting_running_quarantined_and_finished_are_all_there_is() -> None:
    assert WAITING | FINISHED | {JobState.RUNNING, JobState.QUARANTINED} == set(JobState)
    assert not WAITING & FINISHED
    for state in JobState:
        assert state.waiting == (state in WAITING)
        assert state.finished == (state in FINISHED)


def test_only_a_run_succeeds_retries_or_isolates() -> None:
    for outcome in (JobState.SUCCEEDED, JobState.RETRYING, JobState.QUARANTINED):
        assert [s for s, following in TRANSITIONS.items() if outcome in following] == [JobState.RUNNING]


def test_whatever_is_not_finished_can_be_cancelled_and_what_waits_can_run() -> None:
    for state in set(JobState) - FINISHED:
        assert JobState.CANCELLED in TRANSITIONS[state]
    for state in WAITING:
        assert JobState.RUNNING in TRANSITIONS[state]


def test_every_state_is_reached_from_acceptance() -> None:
    reached = {JobState.PENDING, JobState.QUEUED}
    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(JobState)


@pytest.mark.parametrize(
    ("state", "reason", "settled"),
    [
        (JobState.PENDING, None, False),
        (JobState.QUEUED, None, False),
        (JobState.RUNNING, None, False),
        (JobState.RETRYING, None, False),
        (JobState.SUCCEEDED, None, True),
        (JobState.CANCELLED, None, True),
        (JobState.DISCARDED, None, True),
        (JobState.QUARANTINED, QuarantineReason.BREAKER_OPEN, False),
        (JobState.QUARANTINED, QuarantineReason.RETRIES_EXHAUSTED, True),
        (JobState.QUARANTINED, QuarantineReason.NON_RETRYABLE, True),
        (JobState.QUARANTINED, QuarantineReason.POISON, True),
    ],
)
def test_settled_means_that_nothing_more_happens_by_itself(
    state: JobState, reason: QuarantineReason | None, settled: bool
) -> None:
    assert job(state, reason).settled is settled
