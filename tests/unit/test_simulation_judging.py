"""Replays in which the candidate sees the same attempts differently: other codes ignored, other calls slow."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit.adapters import tape
from jobkit.domain.attempts import FLOORS, Logged, Raw, Readmitted, floor_of
from jobkit.domain.breaker import (
    NOBODY,
    SLOW_CALL,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Evidence,
    Outcome,
)
from jobkit.domain.simulation import Simulated, simulate
from tests.unit.lone_worker import NAME, START, Ended, LoneWorker

POLICY = BreakerPolicy(cooldown=2_000, max_cooldown=8_000)
SLOW = replace(POLICY, slow_call_duration=500)
LENIENT = replace(POLICY, ignored_error_codes=frozenset({"GONE"}))
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def replayed(worker: LoneWorker, policy: BreakerPolicy) -> Simulated:
    return simulate(policy, BreakerRecord(NAME), worker.log, START)


def story(found: Simulated) -> list[tuple[BreakerState, str]]:
    return [(move.to_state, move.error_code) for move in found.transitions]


def quick(count: int) -> list[Ended]:
    return [("", 20)] * count


attempts = st.lists(
    st.tuples(
        st.sampled_from(["", "", "", "DOWN", "GONE", SLOW_CALL]),
        st.sampled_from([3, 480, 499, 500, 520, 900]),
    ),
    max_size=15,
)


@given(
    st.lists(st.tuples(attempts, st.floats(0, 0.99), st.integers(1, 5_000)), max_size=25),
    st.sampled_from([0, 490, 500]),
    st.sampled_from([0.2, 0.5]),
    st.sets(st.sampled_from(["GONE", SLOW_CALL])),
    st.integers(1, 3),
)
def test_the_policy_in_force_gives_the_ledger(
    told: list[tuple[list[Ended], float, int]], slow: int, rate: float, ignored: set[str], threshold: int
) -> None:
    """With slow calls and ignored codes, in evidence and in probes, although durations are rounded."""
    policy = replace(
        POLICY,
        failure_threshold=threshold,
        success_threshold=threshold,
        slow_call_duration=slow,
        slow_call_rate=rate,
        ignored_error_codes=frozenset(ignored),
    )
    worker = LoneWorker(policy)
    for ended, fraction, wait in told:
        worker.report(ended, fraction, wait)
    found = replayed(worker, policy)
    assert [replace(move, proof=None) for move in found.transitions] == worker.ledger
    assert (found.held, found.untimed) == (0, 0)
    assert replayed(worker, policy) == found


def test_a_candidate_sees_calls_as_slow_that_nobody_minded() -> None:
    worker = LoneWorker(POLICY)
    worker.report(quick(20))
    worker.report([("", 700)] * 12)
    assert story(replayed(worker, POLICY)) == []
    assert story(replayed(worker, SLOW)) == [(OPEN, SLOW_CALL)]
    assert story(replayed(worker, replace(SLOW, slow_call_duration=701))) == []


def test_a_candidate_does_not_mind_calls_that_were_slow() -> None:
    worker = LoneWorker(SLOW)
    worker.report(quick(20))
    worker.report([("", 700)] * 12)
    assert story(replayed(worker, SLOW)) == [(OPEN, SLOW_CALL)]
    assert story(replayed(worker, POLICY)) == []
    assert story(replayed(worker, replace(SLOW, slow_call_duration=701))) == []
    assert story(replayed(worker, replace(SLOW, slow_call_duration=700))) == [(OPEN, SLOW_CALL)]


def test_a_candidate_counts_a_code_that_was_ignored() -> None:
    worker = LoneWorker(LENIENT)
    worker.report(quick(20))
    worker.report([("GONE", 20)] * 12)
    found = replayed(worker, LENIENT)
    assert (story(found), found.attempts) == ([], 32)
    found = replayed(worker, POLICY)
    assert story(found) == [(OPEN, "GONE")]
    assert found.transitions[0].proof is not None
    assert found.transitions[0].proof.jobs[0] == UUID(int=32)


def test_slow_calls_are_of_jobs_of_their_own_and_name_none() -> None:
    worker = LoneWorker(POLICY)
    worker.report([("", 700)] * 12)
    (opened,) = replayed(worker, SLOW).transitions
    assert opened.proof is not None
    assert (opened.proof.distinct_jobs, opened.proof.jobs) == ({SLOW_CALL: 12}, ())


def opened(policy: BreakerPolicy) -> LoneWorker:
    worker = LoneWorker(policy)
    worker.report(quick(20))
    worker.report([("DOWN", 20)] * 12)
    assert worker.record.state is OPEN
    return worker


@pytest.mark.parametrize(
    ("in_force", "candidate", "probe", "code"),
    [(LENIENT, POLICY, ("GONE", 20), "GONE"), (POLICY, SLOW, ("", 700), SLOW_CALL)],
)
def test_a_probe_may_have_been_good_enough_for_one_policy_only(
    in_force: BreakerPolicy, candidate: BreakerPolicy, probe: Ended, code: str
) -> None:
    worker = opened(in_force)
    worker.probe(probe)
    worker.probe(("", 20))
    assert story(replayed(worker, in_force)) == [(OPEN, "DOWN"), (HALF_OPEN, ""), (CLOSED, "")]
    assert story(replayed(worker, candidate))[:3] == [(OPEN, "DOWN"), (HALF_OPEN, ""), (OPEN, code)]


def test_a_probe_that_was_slow_closes_for_who_does_not_mind() -> None:
    worker = opened(SLOW)
    worker.probe(("", 700))
    worker.probe(("", 20))
    worker.report(quick(5))
    assert story(replayed(worker, SLOW))[2] == (OPEN, SLOW_CALL)
    found = replayed(worker, POLICY)
    assert story(found) == [(OPEN, "DOWN"), (HALF_OPEN, ""), (CLOSED, "")]
    assert found.transitions[-1].generation == worker.ledger[2].generation


def test_attempts_that_say_nothing_would_have_been_held_as_well() -> None:
    worker = LoneWorker(replace(LENIENT, failure_threshold=1_000))
    worker.report(quick(20))
    worker.report([("DOWN", 20)] * 12)
    worker.report([("GONE", 20)] * 3)
    found = replayed(worker, LENIENT)
    assert (story(found), found.held) == ([(OPEN, "DOWN")], 3)
    worker.report([("GONE", 20), ("", 20)], after=60_000)  # the first is no probe: the next one is
    found = replayed(worker, LENIENT)
    assert [state for state, _ in story(found)] == [OPEN, HALF_OPEN, CLOSED]


def told(at: int, worker: str, codes: str, *, took: int = 20, trial: bool = False) -> Logged:
    """ "." a success, a letter a failure with this code of a job of its own; `at` in ms from the start."""
    outcomes = (
        SLOW.judge(Outcome(UUID(int=at + n), code.strip("."), NAME, took=took))
        for n, code in enumerate(codes)
    )
    return Logged((START + at, 0), START + at, Evidence(0, tuple(outcomes), worker, trial=trial))


@pytest.mark.parametrize(
    "trial",
    [
        told(61_000, "bad", ".", took=700, trial=True),
        Logged((START + 61_000, 0), START + 61_000, Readmitted("bad", Outcome(NOBODY, "", NAME, took=700))),
    ],
    ids=["was out for longer", "was let in"],
)
def test_the_trial_of_a_worker_that_is_out_is_judged_too(trial: Logged) -> None:
    """By then nobody else does this work: what fails is the fleet."""
    log = [told(0, "good", "." * 20), told(500, "bad", "A" * 12), trial]
    assert story(simulate(SLOW, BreakerRecord(NAME), log, START)) == [(OPEN, SLOW_CALL)]
    assert story(simulate(POLICY, BreakerRecord(NAME), log, START)) == []
    back = [*log, told(62_000, "bad", "." * 5), told(63_000, "bad", "A" * 12)]
    assert story(simulate(POLICY, BreakerRecord(NAME), back, START)) == [(OPEN, "A")]


@given(st.integers(0, 10**10))
def test_durations_are_rounded_down_by_five_percent_at_most(took: int) -> None:
    floor = FLOORS[floor_of(took)]
    assert floor <= took <= floor * 1.05


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "GONE", "DOWN", SLOW_CALL]), st.none() | st.integers(0, 10**7)),
        max_size=40,
    )
)
def test_what_is_read_is_what_was_told(told: list[tuple[str, int | None]]) -> None:
    policy = replace(SLOW, ignored_error_codes=frozenset({"GONE"}))
    outcomes = [
        policy.judge(Outcome(UUID(int=n + 1), code, NAME, took=t)) for n, (code, t) in enumerate(told)
    ]
    text = tape.of_report(Evidence(7, tuple(outcomes), "w"))
    ((entry),) = tape.read(NAME, [Raw((1, 1), 1, text)])
    assert isinstance(entry.what, Evidence)
    plain = [
        o if o.code else replace(o, job_id=NOBODY, took=None if o.took is None else FLOORS[floor_of(o.took)])
        for o in outcomes
    ]
    assert list(entry.what.outcomes) == plain
    assert [policy.judge(o) for o in plain] == plain
