"""Every rule that moves a breaker, one by one."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from jobkit.domain.breaker import (
    JOBS_KEPT,
    SLOW_CALL,
    TRANSITIONS_KEPT,
    BreakerRecord,
    BreakerState,
    Cause,
    Mode,
    Outcome,
    Proof,
    Seen,
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
from tests.unit.breaker_kit import CLOSED, FORCED, HALF_OPEN, NOW, OPEN, POLICY, seen_of, window


class TestEvidence:
    @pytest.mark.parametrize(
        ("seen", "opens"),
        [
            (window(""), False),
            (window("AAAA"), False),  # below the threshold
            (window("AAAAA"), True),  # nothing has succeeded
            (window("AAAAA....."), False),  # half of too few
            (window("AAAAA."), False),
            (window("AAAAAAA."), False),
            (window("AAAAAAAA."), True),  # but eight of nine are convincing
            (window("A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A.A."), True),  # half of many
            (window("AAAABBBB"), False),  # no code is on enough jobs
            (window("AAAAABBBBB"), True),
            (window("AAAAABBBBBB"), True),  # B
            (window("AAAAABBBBBCCCCC"), False),  # no code is half
            (window("AAAAAAAA", jobs=4), False),  # one job that fails over and over
            (window("A" * 30, jobs=5), True),  # all jobs that there are
            (window("A.A.A.A.A." * 5, jobs=5), False),  # few jobs often, while others succeed
            (window("AAAAA" + "." * 45), False),
            (window("A." * 25), True),
            (window("A." * 24 + ".."), False),
            (window("A." * 25 + "." * 900), True),  # only the sample counts
            (window("." * 50 + "A" * 900), False),
            (window("A" * 10 + "." * 40), True),  # the streak
            (window("A" * 9 + "." * 41), False),
            (window("A" * 9 + "B" + "." * 40), False),
            (window("." + "A" * 10 + "." * 39), False),  # it has ended
            (window("A" * 10 + "." * 40, jobs=4), False),
            (window("A" * 10 + "A...." * 8), False),  # bad luck, at this noise
            (window("A" * 14 + "A...." * 8), True),  # beyond bad luck
        ],
    )
    def test_opens_on_enough_jobs_and_a_large_share_or_a_streak(self, seen: Window, opens: bool) -> None:
        assert isinstance(decide_evidence(POLICY, seen, 0.5), BreakerRecord) is opens

    def test_an_opened_breaker_says_since_when_until_when_and_why(self) -> None:
        seen = window("AAAAAAAA.")
        opened = decide_evidence(POLICY, seen, 0.5)
        until = NOW + POLICY.cooldown
        reason = "8 of the last 9 attempts failed with A"
        jobs = tuple(UUID(int=number) for number in range(5))
        traces = tuple(f"trace-{number}" for number in range(5))
        move = Transition(
            BreakerState.CLOSED,
            BreakerState.OPEN,
            NOW,
            NOW,
            Cause.EVIDENCE,
            reason=reason,
            error_code="A",
            proof=Proof(seen.failures, seen.distinct_jobs, 9, ("x",), jobs, traces, NOW - 1_000),
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

    def test_a_disabled_one_decides_nothing_and_a_shadow_does(self) -> None:
        assert decide_evidence(replace(POLICY, mode=Mode.DISABLED), window("A" * 10), 0.5) is None
        opened = decide_evidence(replace(POLICY, mode=Mode.SHADOW), window("A" * 10), 0.5)
        assert isinstance(opened, BreakerRecord)

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


class TestSlowCalls:
    POLICY = replace(
        POLICY, slow_call_duration=500, slow_call_rate=0.8, ignored_error_codes=frozenset({"NO"})
    )

    @pytest.mark.parametrize(
        ("code", "took", "counts_as"),
        [
            ("", 499, ""),
            ("", 500, SLOW_CALL),
            ("A", 500, "A"),
            ("NO", 1, None),
            ("NO", 900, None),
            ("A", 1, "A"),
        ],
    )
    def test_what_an_attempt_counts_as(self, code: str, took: int, counts_as: str | None) -> None:
        judged = self.POLICY.judge(Outcome(UUID(int=1), code, took=took))
        assert (None if judged.ignored else judged.code) == counts_as
        assert judged.own_code == code

    def test_off_by_default(self) -> None:
        assert POLICY.judge(Outcome(UUID(int=1), "", took=10**9)).code == ""

    @pytest.mark.parametrize("took", [499, 500, None])
    @pytest.mark.parametrize("code", ["", "A", "NO", SLOW_CALL])
    def test_it_does_not_matter_what_another_policy_made_of_it(self, code: str, took: int | None) -> None:
        """Not even of a failure whose own code is that of slow calls."""
        attempt = Outcome(UUID(int=1), code, took=took)
        other = replace(POLICY, slow_call_duration=100, ignored_error_codes=frozenset({"A"}))
        assert self.POLICY.judge(self.POLICY.judge(attempt)) == self.POLICY.judge(attempt)
        if took is not None:
            assert self.POLICY.judge(other.judge(attempt)) == self.POLICY.judge(attempt)

    def test_what_was_slow_for_an_unknown_time_stays_so_where_slow_calls_count(self) -> None:
        slow = Outcome(UUID(int=1), SLOW_CALL, slow=True)
        assert self.POLICY.judge(slow) == slow
        assert not POLICY.judge(slow).failed

    @pytest.mark.parametrize(("slow", "opens"), [(39, False), (40, True)])
    def test_they_have_a_rate_of_their_own(self, slow: int, opens: bool) -> None:
        seen = tuple(replace(s, code=SLOW_CALL if s.code else "") for s in seen_of("A...." * 10))
        order = sorted(seen, key=lambda s: not s.code)
        seen = tuple(
            Seen(SLOW_CALL, "x", "email", UUID(int=n)) if n % 50 < slow else order[-1] for n in range(50)
        )
        counts = {SLOW_CALL: slow}
        looked = Window(NOW, CLOSED, counts, counts, seen[::-1], NOW - 900, workers=1, sources=1)
        assert isinstance(decide_evidence(self.POLICY, looked, 0.5), BreakerRecord) is opens


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
