"""Successes are told up to a flush interval late: that must neither make an outage up nor hide one for long.

The outcomes of a window stand in the order in which they were told. In the order in which they ended, a hundred
workers that fail now and then (20 %, 400 attempts a second) would open within seconds: of what ended last, all
failures have been told and hardly any success has. The price is that an outage opens up to a flush interval late.
"""

from __future__ import annotations

import pytest

from jobkit.domain.breaker import BreakerPolicy
from tests.unit.late_fleet import LateFleet

INTERVAL = BreakerPolicy().flush_interval


@pytest.mark.parametrize("errors", [0.05, 0.2])
@pytest.mark.parametrize(
    ("workers", "rate"), [(1, 400), (2, 400), (4, 100), (20, 1_000), (100, 400), (100, 4_000)]
)
def test_random_errors_open_nothing_although_most_successes_are_yet_to_be_told(
    workers: int, rate: int, errors: float
) -> None:
    fleet = LateFleet(workers, rate, errors)
    fleet.run(4_000)
    assert fleet.opened_at is None
    assert fleet.ejections == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("errors", [0.0, 0.02])
@pytest.mark.parametrize("rate", [100, 400, 1_000, 4_000])
@pytest.mark.parametrize("workers", [20, 100])
def test_an_outage_opens_within_a_flush_interval_of_the_failure_that_decides(
    workers: int, rate: int, errors: float, seed: int
) -> None:
    fleet = LateFleet(workers, rate, errors, seed)
    fleet.run(2_000)
    fleet.errors = 1.0
    fleet.run(2_000)
    assert fleet.opened_at is not None
    assert fleet.opened_at - fleet.decided_at <= INTERVAL + 50
