"""What one lane may do with its share."""

from __future__ import annotations

import math

import pytest

from jobkit.domain.limit import Share
from worker.pacer import Pacer
from worker.quota import Quota


def test_without_a_limit_everything_may_start() -> None:
    quota = Quota()
    assert (quota.slots, quota.rate, quota.wait(1000, 0.0)) == (None, None, 0.0)


def test_with_a_limit_nothing_starts_before_the_store_has_answered() -> None:
    quota = Quota()
    quota.limit(0.0)
    assert quota.wait(0, 0.0) == math.inf
    quota.grant(Share(2), 0.0)
    assert [quota.wait(running, 0.0) for running in (0, 1, 2)] == [0.0, 0.0, math.inf]


def test_while_a_report_is_on_its_way_no_more_runs_than_it_says() -> None:
    quota = Quota()
    quota.limit(0.0)
    quota.grant(Share(3), 0.0)
    quota.report(1, 16, (3, 1), 0, 1.0)
    assert quota.wait(0, 1.0) == 0.0
    assert quota.wait(1, 1.0) == math.inf
    quota.unfreeze()
    assert quota.wait(1, 1.0) == 0.0


def test_a_report_counts_what_was_done_since_the_last() -> None:
    quota = Quota()
    quota.limit(0.0)
    quota.grant(Share(3, 100.0), 0.0)
    for good in (True, True, False, None):
        quota.on_start(0.1)
        quota.on_end(good, 0.05, 0.2)
    report = quota.report(0, 16, (None, 0), 7, 0.5)
    done = (report.started, report.ok, report.failed, report.took_ms, report.span_ms, report.generation)
    assert done == (4, 2, 1, 100, 500, 7)
    assert quota.report(0, 16, (None, 0), 7, 0.6).started == 0


def test_a_report_says_how_much_its_pace_allowed() -> None:
    quota = Quota()
    quota.limit(0.0)
    quota.grant(Share(3, 10.0), 1.0)
    assert quota.report(0, 16, (None, 0), 7, 1.5).allowed == 5
    quota.grant(Share(3, 20.0), 1.7)
    assert quota.report(0, 16, (None, 0), 7, 2.0).allowed == 8
    quota.unlimit()
    quota.limit(50.0)
    assert quota.report(0, 16, (None, 0), 7, 50.5).allowed == 0


def test_refusals_slow_a_lane_down_before_the_fleet_can() -> None:
    quota = Quota()
    quota.limit(0.0)
    quota.grant(Share(50, 100.0), 0.0)
    for _ in range(3):
        quota.on_end(False, 0.01, 0.1)
    assert quota.rate == 50.0


def test_a_lease_ends_by_itself() -> None:
    quota = Quota()
    quota.limit(0.0)
    quota.grant(Share(3), 0.0, 5.0)
    assert [quota.expired(at) for at in (4.9, 5.0)] == [False, True]


def test_a_pacer_spreads_starts_evenly_and_makes_up_for_little() -> None:
    pacer = Pacer()
    pacer.set(100.0, 0.0)
    starts, now = 0, 0.0
    while now < 1.0:
        if not pacer.wait(now):
            pacer.started(now)
            starts += 1
        now += 0.001
    assert starts == pytest.approx(100, abs=2)
    late = [0 for _ in range(10) if not pacer.wait(5.0) and pacer.started(5.0) is None]
    assert len(late) <= 5
    pacer.set(0.0, 5.0)
    assert pacer.wait(6.0) == math.inf
