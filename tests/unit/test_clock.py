"""Database time without asking for it."""

from __future__ import annotations

import time

import pytest

from jobkit.runtime.clock import DatabaseClock


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, to be set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_before_the_first_answer_it_is_the_hosts_clock() -> None:
    assert abs(DatabaseClock().now() - time.time() * 1000) < 1000


def test_the_answer_was_true_half_way_between_question_and_answer(monotonic: list[float]) -> None:
    clock = DatabaseClock()
    asked = clock.monotonic()
    monotonic[0] += 0.2
    clock.adjust(5_000_000, asked)
    assert clock.now() == 5_000_100
    monotonic[0] += 1.5
    assert clock.now() == 5_001_600


def test_a_host_clock_that_jumps_changes_nothing(
    monotonic: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = DatabaseClock()
    clock.adjust(7_000, clock.monotonic())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() == 7_000


def test_an_answer_that_was_long_in_coming_says_little(monotonic: list[float]) -> None:
    """A database that was frozen reads its clock when it wakes, not half-way."""
    clock = DatabaseClock()
    clock.adjust(7_000, clock.monotonic())
    asked = clock.monotonic()
    monotonic[0] += 8
    clock.adjust(15_000, asked)
    assert clock.now() == 15_000


def test_of_the_first_answer_any_is_better_than_the_hosts_clock(monotonic: list[float]) -> None:
    clock = DatabaseClock()
    asked = clock.monotonic()
    monotonic[0] += 4
    clock.adjust(5_000_000, asked)
    assert clock.now() == 5_002_000
