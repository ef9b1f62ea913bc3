"""Where everything has failed so far, who tries next, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from jobkit.domain.breaker import Mode, Wait, Window
from jobkit.domain.caution import decide_caution
from tests.unit.breaker_kit import FORCED, HALF_OPEN, NOW, POLICY, window

STEP = POLICY.flush_interval // POLICY.jobs_needed


def ended(recent: str, moments: Sequence[int], now: int = NOW) -> Window:
    """As drawn, the outcomes having ended at these moments."""
    drawn = window(recent)
    seen = tuple(replace(s, at=at) for s, at in zip(drawn.seen, moments, strict=True))
    return replace(drawn, now=now, seen=seen)


def wait(recent: str, ages: Sequence[int], me: str) -> int:
    decided = decide_caution(POLICY, ended(recent, [NOW - age for age in ages]), me)
    return decided.ms if decided else 0


@pytest.mark.parametrize(
    ("recent", "ages", "waits"),
    [
        ("aA", [0], {"a": STEP}),
        ("aA", [30], {"a": STEP - 30}),
        ("aA", [STEP], {"a": 0}),
        ("aAbAaA", [0, 1, 40], {"a": STEP, "b": STEP - 1}),  # two are missing, and there are two
        ("aAbAaAbA", [0, 1, 40, 41], {"a": STEP, "b": POLICY.flush_interval - 1}),  # one is missing
        ("aAbAaAbA", [300, 301, 340, 341], {"a": 0, "b": 0}),  # whoever waited did so long enough
        ("aAbAcAdA", [0, 0, 0, 0], {"a": STEP, "b": POLICY.flush_interval, "d": POLICY.flush_interval}),
        ("aAbAaAbAaA", [0, 0, 0, 0, 0], {"a": 0, "b": 0}),  # they suffice: others decide about that
        ("aAbA.", [0, 0, 900], {"a": 0, "b": 0}),  # it works for somebody
        ("aAbA", [0, 0], {"c": 0}),  # whoever has not tried yet
        ("", [], {"a": 0}),
    ],
)
def test_who_waits_and_how_long(recent: str, ages: Sequence[int], waits: dict[str, int]) -> None:
    assert {me: wait(recent, ages, me) for me in waits} == waits


def test_one_failure_that_opens_leaves_nothing_to_wait_for() -> None:
    once = replace(POLICY, failure_threshold=1)
    assert decide_caution(once, ended("aA", [NOW]), "a") is None


def test_nobody_waits_before_what_holds_nothing() -> None:
    failing = ended("aA", [NOW])
    assert decide_caution(POLICY, failing, "a") == Wait(STEP)
    for mode in (Mode.SHADOW, Mode.DISABLED):
        assert decide_caution(replace(POLICY, mode=mode), failing, "a") is None
    for record in (FORCED, HALF_OPEN):
        assert decide_caution(POLICY, replace(failing, record=record), "a") is None


@pytest.mark.parametrize("workers", ["ab", "abcd"])
def test_workers_that_tell_in_turn_come_to_as_many_failures_as_are_needed_and_no_more(workers: str) -> None:
    """Each fails at once whenever it may try, the first time together."""
    told: list[tuple[int, str]] = [(NOW, worker) for worker in workers]
    for now in range(NOW, NOW + 3 * POLICY.flush_interval):
        for me in workers:
            newest = sorted(told, key=lambda entry: -entry[0])
            seen = ended("".join(f"{who}A" for _, who in newest), [at for at, _ in newest], now)
            if len(told) < POLICY.jobs_needed and decide_caution(POLICY, seen, me) is None:
                told.append((now, me))
    assert len(told) == POLICY.jobs_needed
