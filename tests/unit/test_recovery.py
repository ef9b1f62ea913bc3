"""The recovery's mark, in virtual time: a backlog of 10,000 behind a dependency that serves 150 calls a second is
drained in 1.15 times the least time, and refused calls are at most 2 % of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobkit.domain.pace import Epoch, Pace, next_pace
from tests.unit.recovery_sim import BrownOut, Bucket, Cap, Dependency, Figures, Fleet, Queue, Window

LEAST = 10_000 / 150


def steady(_: float) -> float:
    return 150


def halved(now: float) -> float:
    return 75 if 1025 <= now < 1050 else 150


def told(name: str, workers: int, figures: Figures, least: float = LEAST) -> float:
    times = figures.seconds / least
    print(f"{name}, {workers} workers: {times:.3f} of the least time, {figures.refused / 100:.2f} % refused")
    return times


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("refuses at once, 5 ms", lambda: Bucket(steady, 0.005)),
        ("refuses at once, 50 ms", lambda: Bucket(steady, 0.05)),
        ("refuses at once, 1 s", lambda: Bucket(steady, 1.0)),
        ("refuses at once, hardly a burst", lambda: Bucket(steady, 0.05, burst=5)),
        ("counts a second, 5 ms", lambda: Window(150, 0.005)),
        ("counts a second, 1 s", lambda: Window(150, 1.0)),
        ("queues, 5 ms", lambda: Queue(150, 0.005)),
        ("queues, 1 s", lambda: Queue(150, 1.0)),
        ("150 at once, 1 s", lambda: Cap(150, 1.0)),
    ],
)
async def test_a_dependency_is_driven_at_what_it_serves(
    name: str, made: Callable[[], Dependency], workers: int
) -> None:
    figures = await Fleet(made(), workers).drain()
    assert told(name, workers, figures) <= 1.15
    assert figures.refused <= 200


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("parts", [(1 / 3,) * 3, (0.8, 0.1, 0.1)], ids=["equal", "unequal"])
@pytest.mark.parametrize(
    "made",
    [lambda: Bucket(steady, 0.05), lambda: Bucket(steady, 1.0), lambda: Window(150, 0.05)],
    ids=["50 ms", "1 s", "counts a second"],
)
async def test_three_types_behind_one_dependency_drive_it_together(
    made: Callable[[], Dependency], parts: tuple[float, ...], workers: int
) -> None:
    figures = await Fleet(made(), workers, parts=parts).drain()
    assert told("three types", workers, figures) <= 1.15
    assert figures.refused <= 200


@pytest.mark.parametrize("workers", [1, 2, 8])
async def test_capacity_that_goes_and_comes_back_is_followed(workers: int) -> None:
    least = 50 + (10_000 - 25 * 225) / 150
    figures = await Fleet(Bucket(halved, 0.05), workers).drain()
    assert told("halves for 25 s", workers, figures, least) <= 1.2
    assert figures.refused <= 300  # of them some 2 x 75 in the moment when it halves


@pytest.mark.parametrize("workers", [1, 2, 8])
async def test_jobs_that_fail_on_their_own_account_do_not_slow_the_others(workers: int) -> None:
    figures = await Fleet(Bucket(steady, 0.05, noise=0.05), workers).drain()
    assert told("5 % bad jobs", workers, figures, LEAST / 0.95) <= 1.35


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("errors", [0.05, 0.1, 0.15, 0.2, 0.3, 0.4])
async def test_errors_that_have_nothing_to_do_with_the_rate_do_not_hold_it_down(
    errors: float, seed: int, workers: int
) -> None:
    """A minute's work; it finds out what is noise in the first ten to twenty seconds of it."""
    backlog = round(60 * 96 * (1 - errors))
    figures = await Fleet(BrownOut(24, 0.25, errors, seed), workers, backlog, seed=seed).drain(150)
    assert told(f"{errors:.0%} errors", workers, figures, 60) <= 2


async def test_answers_that_come_late_do_no_harm() -> None:
    figures = await Fleet(Bucket(steady, 1.0, refuses_in=1.0), 2).drain()
    assert told("refuses after 1 s", 2, figures) <= 1.25
    assert figures.refused <= 400


async def test_a_concurrency_cap_is_respected() -> None:
    figures = await Fleet(Cap(15, 0.1), 2).drain()
    assert told("15 at once, 100 ms", 2, figures) <= 1.2
    assert figures.refused <= 200


async def test_every_worker_has_its_part() -> None:
    figures = await Fleet(Bucket(steady, 0.05), 8).drain()
    parts = figures.by_worker.values()
    assert min(parts) > 10_000 / 8 / 2
    assert max(parts) < 10_000 / 8 * 2


async def test_it_ends_when_nobody_lacks_anything() -> None:
    fleet = Fleet(Bucket(steady, 0.05), 2, backlog=10)
    fleet.left = 11  # the clock runs on after the last
    figures = await fleet.drain(30)
    assert figures.unlimited_at is not None
    assert figures.unlimited_at - 1000 < 8


def test_it_starts_small_doubles_and_remembers_where_refusals_began() -> None:
    pace = Pace(7)
    rates = []
    for _ in range(4):
        rates.append(pace.rate)
        served = min(pace.rate, 100)
        started, ok = round(pace.rate), round(served)
        pace = next_pace(pace, Epoch(started, ok, started - ok, ok * 50.0, lacked=True))
    assert rates == [20, 40, 80, 160]
    assert pace.ceiling == 100
    assert pace.rate == 97


def test_it_doubles_although_lanes_hear_of_a_rate_late() -> None:
    half_of_the_time = Epoch(60, 60, 0, 3000.0, lacked=True, seconds=1.0, allowed=60)
    assert next_pace(Pace(7, rate=80.0), half_of_the_time).rate == 160
    refused_a_third = Epoch(60, 40, 0, 2000.0, lacked=True, seconds=1.0, allowed=60)
    assert next_pace(Pace(7, rate=80.0), refused_a_third).rate == pytest.approx(80 * 1.4)


def test_nothing_follows_from_an_epoch_that_did_not_use_what_it_had() -> None:
    pace = Pace(7)
    assert next_pace(pace, Epoch(3, 3, 0, 150.0, lacked=False)).rate == pace.rate


def test_the_rate_never_falls_to_nothing() -> None:
    pace = Pace(7)
    for _ in range(50):
        pace = next_pace(pace, Epoch(10, 0, 10, 0.0, lacked=True))
    assert pace.rate >= 1
    assert pace.slots >= 2


def test_what_fails_altogether_is_no_noise() -> None:
    pace = Pace(7, ceiling=50.0, cut_share=0.9, since_cut=2.0, trial=(20, 20))
    pace = next_pace(pace, Epoch(20, 0, 20, 0.0, lacked=True))
    assert (pace.trial, pace.noise) == (None, 0.0)
