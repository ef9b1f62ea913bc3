"""After a breaker closed a lane starts small."""

from __future__ import annotations

import pytest

from worker.ramp import Ramp


def test_without_a_closing_the_limit_is_full() -> None:
    assert Ramp(16).limit(0) == 16


@pytest.mark.parametrize(
    ("seconds", "limit"), [(0, 1), (0.99, 1), (1, 2), (2.5, 4), (3, 8), (4, 16), (5, 16), (1e6, 16)]
)
def test_the_limit_doubles_every_second(seconds: float, limit: int) -> None:
    ramp = Ramp(16)
    ramp.start(100)
    assert ramp.limit(100 + seconds) == limit


def test_a_full_ramp_is_over_until_the_next_closing() -> None:
    ramp = Ramp(10)
    ramp.start(0)
    assert [ramp.limit(now) for now in (0, 3, 4, 0)] == [1, 8, 10, 10]
    ramp.start(50)
    assert ramp.limit(50) == 1


def test_a_lane_of_one_has_nothing_to_ramp() -> None:
    ramp = Ramp(1)
    ramp.start(0)
    assert ramp.limit(0) == 1
