"""The pace of a redrive: kept when fixed, found when adaptive, given up when hopeless."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit.domain.redrive import (
    HOPELESS_SAMPLE,
    MAX_RATE,
    MIN_RATE,
    START_RATE,
    Answers,
    Pace,
    allowance,
    first_pace,
    is_hopeless,
    learn,
    pause,
    spend,
)

T0 = 1_760_000_000_000


@given(
    rate=st.floats(MIN_RATE, MAX_RATE),
    ticks=st.lists(st.integers(1, 3_000), min_size=1, max_size=60),
    limit=st.integers(1, 500),
)
def test_a_fixed_rate_is_never_exceeded(rate: float, ticks: list[int], limit: int) -> None:
    """But for a second's worth, which may have gathered, the job that may go at once, and rounding to ms."""
    now, sent = T0, 0
    pace = first_pace(rate, now)
    for tick in ticks:
        count = min(allowance(pace, now, sent), limit)
        pace = spend(pace, now, count)
        sent += count
        assert sent <= (now - T0) * rate / 1000 * 1.001 + max(rate, 1) + 1 + len(ticks) * rate / 1000
        now += tick


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 7.0, 20.0, 333.0, 5_000.0])
def test_a_fixed_rate_is_reached(rate: float) -> None:
    pace, sent = first_pace(rate, T0), 0
    for now in range(T0, T0 + 60_001, 200):
        while count := min(allowance(pace, now, sent), 500):
            pace, sent = spend(pace, now, count), sent + count
    assert 60 * rate * 0.97 <= sent <= 60 * rate * 1.03 + 2


def test_the_first_job_goes_at_once() -> None:
    for rate in (0.1, 20.0, None):
        assert allowance(first_pace(rate, T0), T0, 0) == 1


def test_a_clock_that_jumps_neither_stops_it_nor_opens_the_gates() -> None:
    pace = first_pace(10, T0)
    assert allowance(pace, T0 + 3_600_000, 0) == 10
    back = spend(pace, T0 - 3_600_000, 1)
    assert back.paced_at <= T0 - 3_600_000
    assert allowance(back, T0 - 3_600_000 + 200, 0) >= 1


def run(
    seconds: int, capacity: float, *, failing: float = 0.0, jobs: int = 10**9, pace: Pace | None = None
) -> tuple[Pace, int, int]:
    """An adaptive redrive against workers that run `capacity` jobs a second, a share of which fails: the pace, what
    was sent and what failed."""
    draw = random.Random(7)
    pace = pace or first_pace(None, T0)
    start = max(pace.epoch_at, T0)
    queue = sent = refused = 0
    budget = 0.0
    for now in range(start, start + seconds * 1000, 200):
        count = min(allowance(pace, now, queue), jobs - sent)
        pace = spend(pace, now, count)
        sent, queue, budget = sent + count, queue + count, min(budget + capacity / 5, capacity)
        ran = min(queue, int(budget))
        budget -= ran
        queue -= ran
        bad = sum(draw.random() < failing for _ in range(ran))
        refused += bad
        pace = learn(pace, Answers(ran - bad, bad, ran - bad, bad, 0), now)
    return pace, sent, refused


def test_while_all_goes_well_it_doubles_every_second() -> None:
    pace, sent, _ = run(11, capacity=10_000)
    assert pace.rate >= 256
    assert sent > 500


def test_it_does_not_run_away_from_the_workers() -> None:
    pace, sent, _ = run(60, capacity=20)
    assert pace.rate <= 2 * 20 * 2
    assert 15 * 60 <= sent <= 20 * 60 + 16 + 20 * 2 * 10 * 2


def test_it_shrinks_on_failures_to_a_crawl_and_gives_up() -> None:
    fast, _, _ = run(10, capacity=10_000)
    slow, sent, _ = run(10, capacity=10_000, failing=1.0, pace=fast)
    assert slow.rate < fast.rate / 100
    assert sent < fast.rate * 3
    assert is_hopeless(slow)


def test_noise_does_not_stop_it() -> None:
    pace, _, refused = run(30, capacity=1_000, failing=0.03)
    assert pace.rate > 20
    assert refused
    assert not is_hopeless(pace)


def test_behind_a_pause_it_starts_slowly_and_knows_how_far_it_may_double() -> None:
    fast, _, _ = run(8, capacity=10_000)
    paused = pause(fast, T0 + 100_000)
    assert (paused.rate, paused.threshold) == (START_RATE, fast.rate / 2)
    assert pause(paused, T0 + 200_000).threshold == paused.threshold
    again, _, _ = run(20, capacity=10_000, pace=paused)
    assert paused.threshold <= again.rate < paused.threshold * 2
    assert pause(first_pace(50, T0), T0 + 1).rate == 50


@pytest.mark.parametrize(
    ("failed", "succeeded", "hopeless"),
    [
        (HOPELESS_SAMPLE - 1, 0, False),
        (HOPELESS_SAMPLE, 0, True),
        (9, 1, True),
        (8, 2, False),
        (0, 50, False),
    ],
)
def test_when_it_gives_up(failed: int, succeeded: int, hopeless: bool) -> None:
    pace = learn(first_pace(None, T0), Answers(succeeded, failed, succeeded, failed), T0)
    assert is_hopeless(pace) is hopeless
    fixed = learn(first_pace(5, T0), Answers(succeeded, failed, succeeded, failed), T0 + 10_000)
    assert not is_hopeless(fixed)
    assert fixed.rate == 5


def test_what_went_well_long_ago_does_not_hide_that_all_fails_now() -> None:
    pace = learn(first_pace(None, T0), Answers(5_000, 0, 5_000, 0), T0)
    for _ in range(15):
        assert not is_hopeless(pace)
        pace = learn(pace, Answers(0, 1, 0, 1), T0)
    assert is_hopeless(pace)


answers = st.builds(Answers, *[st.integers(0, 1_000)] * 5)


@given(st.lists(st.tuples(answers, st.integers(-5_000, 5_000), st.booleans()), max_size=40))
def test_whatever_happens_the_rate_stays_within_bounds(story: list[tuple[Answers, int, bool]]) -> None:
    pace, now = first_pace(None, T0), T0
    for told, tick, held in story:
        now += tick
        pace = pause(pace, now) if held else learn(pace, told, now)
        pace = spend(pace, now, allowance(pace, now, 0))
        assert MIN_RATE <= pace.rate <= MAX_RATE
        assert 0 <= allowance(pace, now, 0) <= 1 + pace.rate
