"""An expired lease says something only to those who saw the database all through it."""

from __future__ import annotations

from datetime import timedelta

from worker.sight import Sight

LEASE = timedelta(seconds=8)


class Clock:
    at = 100.0

    def __call__(self) -> float:
        return self.at


def watched(sight: Sight, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds)):
        clock.at += 1
        sight.saw()


def test_a_whole_lease_must_have_been_seen() -> None:
    clock = Clock()
    sight = Sight(LEASE, clock)
    watched(sight, clock, 5)
    assert sight.clear_in() == timedelta(seconds=3)
    watched(sight, clock, 3)
    assert sight.clear_in() == timedelta(0)


def test_a_gap_starts_it_anew() -> None:
    clock = Clock()
    sight = Sight(LEASE, clock)
    watched(sight, clock, 20)
    clock.at += 4.5
    assert sight.clear_in() == LEASE  # nothing has answered yet
    sight.saw()
    assert sight.clear_in() == LEASE
    watched(sight, clock, 8)
    assert sight.clear_in() == timedelta(0)


def test_a_hiccup_is_no_gap() -> None:
    clock = Clock()
    sight = Sight(LEASE, clock)
    watched(sight, clock, 8)
    clock.at += 3.9
    assert sight.clear_in() == timedelta(0)
    short = Sight(timedelta(seconds=1), clock)
    watched(short, clock, 2)
    assert short.clear_in() == timedelta(0)


def test_a_write_that_failed_starts_it_anew() -> None:
    clock = Clock()
    sight = Sight(LEASE, clock)
    watched(sight, clock, 20)
    sight.broke()
    assert sight.clear_in() == LEASE
    watched(sight, clock, 8)
    assert sight.clear_in() == timedelta(0)
