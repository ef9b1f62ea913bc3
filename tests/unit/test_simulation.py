"""Replays of logs written by hand: what differs under another policy, what is counted, what is known from before."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit.domain.attempts import Logged, Moved
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Evidence, Mode, Outcome
from jobkit.domain.simulation import SLICE_MS, simulate
from jobkit.domain.tripping import open_by_hand, reset

POLICY = BreakerPolicy()
NOTHING = BreakerRecord("email")
NOW = 1_700_000_000_000
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def report(at: int, codes: str, worker: str = "w", first: int = 0, fraction: float = 0.5) -> Logged:
    """ "." a success, a letter a failure with this code of a job of its own; `at` in ms from NOW."""
    outcomes = tuple(
        Outcome(UUID(int=at * 1000 + first + n), "" if code == "." else code, "email")
        for n, code in enumerate(codes)
    )
    return Logged((NOW + at, 0), NOW + at, Evidence(0, outcomes, worker, fraction))


def hand(at: int, record: BreakerRecord, was: int) -> Logged:
    return Logged((NOW + at, 0), NOW + at, Moved(record, was))


def story(found: object) -> list[tuple[int, BreakerState]]:
    return [(move.at - NOW, move.to_state) for move in found.transitions]  # type: ignore[attr-defined]


def test_ten_failures_open_and_nothing_else_is_known() -> None:
    found = simulate(POLICY, NOTHING, [report(0, "." * 20), report(1000, "A" * 10)], NOW)
    assert story(found) == [(1000, OPEN)]
    assert (found.attempts, found.held) == (30, 0)
    assert found.open_ms(NOW + 31_000) == 30_000
    assert found.false_ms(NOW + 31_000) == 0


def test_attempts_that_a_keener_policy_had_held_are_counted_and_the_next_one_is_its_probe() -> None:
    """The breaker stayed closed in truth, so that the work goes on in the log."""
    keen = replace(POLICY, failure_threshold=2, cooldown=20_000)
    log = [
        report(0, "." * 20),
        report(1000, "AAAA"),
        report(2000, "..."),
        report(12_000, ".."),
        report(30_000, ".."),
    ]
    assert story(simulate(POLICY, NOTHING, log, NOW)) == []
    found = simulate(keen, NOTHING, log, NOW)
    assert story(found) == [(1000, OPEN), (21_000, HALF_OPEN), (30_000, CLOSED)]
    assert found.held == 5
    assert found.false_ms(NOW + 40_000) == 2 * SLICE_MS
    assert found.open_ms(NOW + 40_000) == 29_000
    assert [stretch.recorded for stretch in found.stretches] == [False]


def test_a_probe_that_failed_in_the_log_opens_for_twice_as_long() -> None:
    keen = replace(POLICY, failure_threshold=2, cooldown=20_000)
    log = [
        report(0, "." * 20),
        report(1000, "AAAA"),
        report(30_000, "A"),
        report(69_000, "."),
        report(71_000, "."),
    ]
    found = simulate(keen, NOTHING, log, NOW)
    assert story(found) == [
        (1000, OPEN), (21_000, HALF_OPEN), (30_000, OPEN), (70_000, HALF_OPEN), (71_000, CLOSED),
    ]  # fmt: skip


def test_codes_that_the_candidate_ignores_say_nothing() -> None:
    log = [report(0, "." * 20), report(1000, "A" * 20)]
    assert story(simulate(replace(POLICY, ignored_error_codes=frozenset("A")), NOTHING, log, NOW)) == []
    assert story(simulate(replace(POLICY, mode=Mode.DISABLED), NOTHING, log, NOW)) == []


def test_what_operators_did_they_would_have_done() -> None:
    opened = open_by_hand(NOTHING, NOW + 500, None, "ann", "")
    shut = reset(opened, NOW + 9_500, "ann", "")
    log = [hand(500, opened, 0), hand(9_500, shut, opened.generation)]
    found = simulate(replace(POLICY, failure_threshold=1), NOTHING, log, NOW)
    assert story(found) == [(500, OPEN), (9_500, CLOSED)]
    assert found.stretches[0].recorded
    assert found.open_ms(NOW + 20_000) == 9_000


def test_what_lies_before_the_range_only_sets_the_scene() -> None:
    log = [report(0, "." * 20), report(1000, "A" * 9), report(2000, "A")]
    found = simulate(POLICY, NOTHING, log, NOW + 1500)
    assert story(found) == [(2000, OPEN)]
    assert found.attempts == 1
    opened = open_by_hand(NOTHING, NOW + 500, None, "ann", "")
    found = simulate(POLICY, NOTHING, [hand(500, opened, 0), report(2000, "A" * 20)], NOW + 1500)
    assert story(found) == []


def test_of_two_workers_that_decide_the_one_that_swapped_made_the_move() -> None:
    """The first report decides as well, but its worker was slower."""
    log = [
        report(0, "." * 20, "x"),
        report(0, "." * 20, "y"),
        report(1000, "A" * 30, "x"),
        report(1001, "A" * 30, "y"),
    ]
    alone = simulate(POLICY, NOTHING, log, NOW)
    log += [report(1003, "A", "x")]
    assert story(alone)[-1][1] is OPEN
    at = alone.transitions[-1].at + 2
    made = open_by_hand(NOTHING, at, None, "", "")
    raced = simulate(POLICY, NOTHING, [*log, hand(at - NOW, made, 0)], NOW)
    assert story(raced)[0][0] == at - NOW


@given(
    st.lists(
        st.tuples(
            st.integers(1, 5_000), st.text(".AB", max_size=15), st.sampled_from("xy"), st.floats(0, 0.99)
        ),
        max_size=40,
    ),
    st.integers(1, 6),
    st.integers(1_000, 30_000),
)
def test_it_is_deterministic_and_its_moves_follow_one_another(
    told: list[tuple[int, str, str, float]], threshold: int, cooldown: int
) -> None:
    at, log = 0, []
    for wait, codes, worker, fraction in told:
        at += wait
        log.append(report(at, codes, worker, fraction=fraction))
    policy = replace(POLICY, failure_threshold=threshold, cooldown=cooldown)
    found = simulate(policy, NOTHING, log, NOW)
    assert simulate(policy, NOTHING, log, NOW) == found
    state, generation, when = CLOSED, 0, 0
    for move in found.transitions:
        assert move.from_state is state
        assert move.generation > generation
        assert move.at >= when
        state, generation, when = move.to_state, move.generation, move.at
    end = NOW + at + 1
    assert 0 <= found.false_ms(end) <= found.open_ms(end) <= end - NOW
    assert 0 <= found.held <= found.attempts


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.ENFORCED])
def test_a_shadow_decides_alike(mode: Mode) -> None:
    log = [report(0, "." * 20), report(1000, "A" * 10)]
    assert story(simulate(replace(POLICY, mode=mode), NOTHING, log, NOW)) == [(1000, OPEN)]
