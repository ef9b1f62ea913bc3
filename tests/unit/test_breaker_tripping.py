"""Every rule that moves a breaker, one by one."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from jobkit.domain.breaker import (
    JOBS_KEPT,
    TRANSITIONS_KEPT,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Cause,
    Transition,
    Wait,
    Window,
)
from jobkit.domain.tripping import (
    close_by_hand,
    cooldown,
    decide_evidence,
    decide_open_until,
    decide_probe,
    decide_probe_time,
    next_generation,
    open_by_hand,
    reset,
)

NOW = 1_700_000_000_000
POLICY = BreakerPolicy()
CLOSED = BreakerRecord("email", generation=7)
OPEN = BreakerRecord(
    "email", BreakerState.OPEN, generation=7, opened_at=NOW - 60_000, open_until=NOW, error_code="A"
)
HALF_OPEN = replace(OPEN, state=BreakerState.HALF_OPEN)
FORCED = replace(CLOSED, forced=True)


def window(recent: str, jobs: int | None = None, age: int = 1_000, record: BreakerRecord = CLOSED) -> Window:
    """`recent` is the last outcomes, newest first: "." a success, a letter a failure with that code."""
    codes = sorted(set(recent) - {"."})
    return Window(
        now=NOW,
        record=record,
        distinct_jobs={code: recent.count(code) if jobs is None else jobs for code in codes},
        failures={code: recent.count(code) for code in codes},
        recent=tuple("" if outcome == "." else outcome for outcome in recent),
        first_failure_at=NOW - age if codes else None,
    )


class TestEvidence:
    @pytest.mark.parametrize(
        ("seen", "opens"),
        [
            (window(""), False),
            (window("AAAA"), False),  # below the threshold
            (window("AAAAA"), True),
            (window("AAAAA....."), True),  # just half
            (window("AAAAA......"), False),
            (window("AAAABBBB"), False),  # no code is on enough jobs
            (window("AAAAABBBBB"), True),
            (window("AAAAABBBBBB."), True),  # B
            (window("AAAAABBBBBCCCCC"), False),  # no code is half
            (window("AAAAAAAA", jobs=4), False),  # one job that fails over and over
            (window("AAAAA" + "." * 45, jobs=400), False),
            (window("A." * 25), True),
            (window("A." * 24 + ".."), False),
            (window("A." * 25 + "." * 900), True),  # only the sample counts
            (window("." * 50 + "A" * 900), False),
            (window("A" * 10 + "." * 40), True),  # the streak
            (window("A" * 9 + "." * 41), False),
            (window("A" * 9 + "B" + "." * 40), False),
            (window("." + "A" * 10 + "." * 39), False),  # it has ended
            (window("A" * 10 + "." * 40, jobs=4), False),
        ],
    )
    def test_opens_on_enough_jobs_and_a_large_share_or_a_streak(self, seen: Window, opens: bool) -> None:
        assert isinstance(decide_evidence(POLICY, seen, 0.5), BreakerRecord) is opens

    def test_an_opened_breaker_says_since_when_until_when_and_why(self) -> None:
        opened = decide_evidence(POLICY, window("AAAAA."), 0.5)
        until = NOW + POLICY.cooldown
        reason = "5 of the last 6 attempts failed with A"
        move = Transition(
            BreakerState.CLOSED, BreakerState.OPEN, NOW, NOW, Cause.EVIDENCE, "", reason, error_code="A"
        )
        assert opened == BreakerRecord(
            "email", BreakerState.OPEN, NOW, NOW, until, error_code="A", transitions=(move,)
        )

    @pytest.mark.parametrize(("age", "wait"), [(0, 200), (150, 50), (199, 1)])
    def test_a_share_waits_for_what_others_have_not_reported(self, age: int, wait: int) -> None:
        assert decide_evidence(POLICY, window("AAAAA", age=age), 0.5) == Wait(wait)
        assert isinstance(decide_evidence(POLICY, window("AAAAA", age=200), 0.5), BreakerRecord)

    def test_a_streak_does_not_wait(self) -> None:
        assert isinstance(decide_evidence(POLICY, window("A" * 10, age=0), 0.5), BreakerRecord)

    def test_nothing_to_wait_for_without_a_share(self) -> None:
        assert decide_evidence(POLICY, window("AAAAA......", age=0), 0.5) is None

    @pytest.mark.parametrize("record", [OPEN, HALF_OPEN, FORCED, replace(FORCED, open_until=NOW + 1)])
    def test_only_a_closed_breaker_heeds_it(self, record: BreakerRecord) -> None:
        assert decide_evidence(POLICY, window("A" * 10, record=record), 0.5) is None

    def test_it_counts_again_when_the_forced_time_is_over(self) -> None:
        seen = window("A" * 10, record=replace(FORCED, open_until=NOW))
        opened = decide_evidence(POLICY, seen, 0.5)
        assert isinstance(opened, BreakerRecord)
        assert not opened.forced

    def test_a_threshold_beyond_what_is_remembered_can_be_met(self) -> None:
        policy = replace(POLICY, failure_threshold=10**6)
        assert policy.outcomes_needed == 2 * JOBS_KEPT
        assert isinstance(decide_evidence(policy, window("A" * JOBS_KEPT), 0.5), BreakerRecord)

    def test_the_sample_covers_both_rules(self) -> None:
        assert POLICY.outcomes_needed == 50
        assert replace(POLICY, failure_sample=3).outcomes_needed == 10


class TestSimulation:
    """A hundred thousand attempts, decided after each one. The draws are seeded, for the rule bounds chance and
    does not abolish it: at a rate of 0.2, all with one code, 25 failures among the last 50 come about once in a
    million attempts, and half of the first dozen or so fail in 4 % of all runs (0.1 % with three codes)."""

    @staticmethod
    def attempts_until_open(outcome: Callable[[int], str], attempts: int) -> int | None:
        recent: deque[str] = deque(maxlen=POLICY.outcomes_needed)
        jobs: dict[str, int] = {}
        for attempt in range(attempts):
            code = outcome(attempt)
            recent.appendleft(code)
            if code:
                jobs[code] = jobs.get(code, 0) + 1
            seen = Window(NOW, CLOSED, jobs, jobs, tuple(recent), NOW - 60_000)
            if decide_evidence(POLICY, seen, 0.5) is not None:
                return attempt
        return None

    def test_a_fifth_of_random_errors_opens_nothing(self) -> None:
        draw = random.Random(20)
        assert self.attempts_until_open(lambda _: "A" if draw.random() < 0.2 else "", 100_000) is None

    def test_a_fifth_of_mixed_errors_opens_nothing(self) -> None:
        draw = random.Random(20)
        assert self.attempts_until_open(lambda _: draw.choice("ABC") * (draw.random() < 0.2), 100_000) is None

    def test_a_busy_healthy_type_opens_after_ten_failures(self) -> None:
        opened = self.attempts_until_open(lambda attempt: "A" if attempt >= 1_000 else "", 2_000)
        assert opened == 1_009

    def test_a_busy_type_that_half_fails_opens_within_a_sample_or_so(self) -> None:
        draw = random.Random(20)
        opened = self.attempts_until_open(
            lambda attempt: "A" if attempt >= 1_000 and draw.random() < 0.7 else "", 2_000
        )
        assert opened is not None
        assert opened < 1_080

    def test_a_quiet_type_opens_at_the_threshold(self) -> None:
        assert self.attempts_until_open(lambda _: "A", 100) == POLICY.failure_threshold - 1


class TestOpenUntil:
    def test_it_opens_until_exactly_then(self) -> None:
        opened = decide_open_until(CLOSED, NOW + 12_345, "RETRY_LATER", NOW)
        assert opened is not None
        assert (opened.state, opened.opened_at, opened.open_until) == (BreakerState.OPEN, NOW, NOW + 12_345)
        assert (opened.error_code, opened.transitions[-1].cause) == ("RETRY_LATER", Cause.EVIDENCE)

    def test_a_probe_may_be_told_so_too(self) -> None:
        half_open = replace(HALF_OPEN, reopened=3, successes=1)
        opened = decide_open_until(half_open, NOW + 5, "A", NOW)
        assert opened is not None
        assert (opened.open_until, opened.reopened, opened.successes) == (NOW + 5, 3, 0)

    @pytest.mark.parametrize(
        ("record", "until"), [(OPEN, NOW + 9), (FORCED, NOW + 9), (CLOSED, NOW), (CLOSED, NOW - 1)]
    )
    def test_what_it_does_not_move(self, record: BreakerRecord, until: int) -> None:
        assert decide_open_until(record, until, "A", NOW) is None

    def test_an_attempt_of_an_earlier_generation_changes_nothing(self) -> None:
        assert decide_open_until(CLOSED, NOW + 9, "A", NOW, generation=6) is None
        assert decide_open_until(CLOSED, NOW + 9, "A", NOW, generation=7) is not None


class TestProbeTime:
    def test_it_is_probed_once_the_open_time_is_over(self) -> None:
        assert decide_probe_time(OPEN, NOW - 1) is None
        half_open = decide_probe_time(OPEN, NOW)
        assert half_open is not None
        assert half_open.state is BreakerState.HALF_OPEN
        assert half_open.opened_at == OPEN.opened_at
        assert half_open.transitions[-1].cause is Cause.TIMER

    @pytest.mark.parametrize("record", [CLOSED, HALF_OPEN, replace(OPEN, open_until=None), FORCED])
    def test_what_is_not_probed(self, record: BreakerRecord) -> None:
        assert decide_probe_time(record, NOW + 10**9) is None


class TestProbe:
    def test_a_success_closes(self) -> None:
        closed = decide_probe(replace(HALF_OPEN, reopened=4), POLICY, 7, True, "", NOW, 0.5)
        assert closed is not None
        assert replace(closed, transitions=()) == BreakerRecord("email", generation=NOW)

    def test_as_many_successes_as_the_policy_wants(self) -> None:
        policy = replace(POLICY, success_threshold=3)
        record: BreakerRecord | None = HALF_OPEN
        for successes in (1, 2):
            assert record is not None
            record = decide_probe(record, policy, 7, True, "", NOW, 0.5)
            assert record == replace(HALF_OPEN, successes=successes)
        assert record is not None
        closed = decide_probe(record, policy, 7, True, "", NOW, 0.5)
        assert closed is not None
        assert closed.state is BreakerState.CLOSED

    def test_each_failure_opens_for_twice_as_long(self) -> None:
        record, waits = HALF_OPEN, []
        for _ in range(6):
            opened = decide_probe(record, POLICY, record.generation, False, "B", NOW, 0.5)
            assert opened is not None
            assert (opened.state, opened.error_code, opened.successes) == (BreakerState.OPEN, "B", 0)
            assert opened.open_until is not None
            waits.append(opened.open_until - NOW)
            half_open = decide_probe_time(opened, opened.open_until)
            assert half_open is not None
            record = half_open
        assert waits == [120_000, 240_000, 480_000, 600_000, 600_000, 600_000]

    @pytest.mark.parametrize(
        ("record", "generation"), [(HALF_OPEN, 6), (HALF_OPEN, 8), (OPEN, 7), (CLOSED, 7)]
    )
    @pytest.mark.parametrize("succeeded", [True, False])
    def test_an_answer_to_another_generation_changes_nothing(
        self, record: BreakerRecord, generation: int, succeeded: bool
    ) -> None:
        assert decide_probe(record, POLICY, generation, succeeded, "A", NOW, 0.5) is None


class TestCooldown:
    @pytest.mark.parametrize(("fraction", "wait"), [(0.0, 54_000), (0.5, 60_000), (0.999_999, 66_000)])
    def test_it_is_jittered_by_a_tenth(self, fraction: float, wait: int) -> None:
        assert cooldown(POLICY, 0, fraction) == wait

    def test_no_number_of_reopenings_is_too_large(self) -> None:
        assert cooldown(POLICY, 10**9, 0.5) == POLICY.max_cooldown

    def test_it_is_never_nothing(self) -> None:
        assert cooldown(replace(POLICY, cooldown=0), 0, 0.5) == 1


class TestByHand:
    @pytest.mark.parametrize("record", [CLOSED, OPEN, HALF_OPEN, FORCED])
    @pytest.mark.parametrize("until", [None, NOW + 9])
    def test_open(self, record: BreakerRecord, until: int | None) -> None:
        opened = open_by_hand(record, NOW, until, "ann", "maintenance")
        assert (opened.state, opened.opened_at, opened.open_until) == (BreakerState.OPEN, NOW, until)
        assert opened.transitions[-1] == Transition(
            record.state, BreakerState.OPEN, NOW, NOW, Cause.OPERATOR, "ann", "maintenance"
        )
        assert (decide_probe_time(opened, NOW + 9) is None) is (until is None)

    @pytest.mark.parametrize("record", [CLOSED, OPEN, HALF_OPEN, FORCED])
    @pytest.mark.parametrize("until", [None, NOW + 9])
    def test_close(self, record: BreakerRecord, until: int | None) -> None:
        closed = close_by_hand(record, NOW, until, "ann", "known")
        assert (closed.state, closed.forced, closed.open_until) == (BreakerState.CLOSED, True, until)
        assert closed.opened_at is None
        assert decide_evidence(POLICY, window("A" * 10, record=closed), 0.5) is None

    @pytest.mark.parametrize("record", [CLOSED, OPEN, HALF_OPEN, FORCED])
    def test_reset(self, record: BreakerRecord) -> None:
        again = reset(replace(record, reopened=3), NOW, "ann", "fixed")
        assert replace(again, transitions=()) == BreakerRecord("email", generation=NOW)
        assert isinstance(decide_evidence(POLICY, window("A" * 10, record=again), 0.5), BreakerRecord)

    def test_nobody_is_anonymous(self) -> None:
        moves = (
            open_by_hand(CLOSED, NOW, None, "", ""),
            close_by_hand(OPEN, NOW, None, "", ""),
            reset(OPEN, NOW, "", ""),
        )
        assert [record.transitions[-1].actor for record in moves] == ["anonymous"] * 3


def test_a_generation_survives_a_wipe_and_a_clock_that_goes_back() -> None:
    assert next_generation(0, NOW) == NOW
    assert next_generation(NOW, NOW) == NOW + 1
    assert next_generation(NOW + 50, NOW) == NOW + 51


def test_the_last_transitions_are_kept() -> None:
    record = CLOSED
    for i in range(TRANSITIONS_KEPT + 5):
        record = reset(record, NOW + i, "ann", str(i))
    assert [move.reason for move in record.transitions] == [str(i) for i in range(5, TRANSITIONS_KEPT + 5)]
