"""Who saw it: one worker or the fleet, one type or the dependency."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from jobkit.domain.breaker import BreakerRecord, Eject, Mode, Seen, Window
from jobkit.domain.tripping import decide_alone, decide_evidence
from tests.unit.breaker_kit import NOW, POLICY, window


class TestWorkers:
    """Letters a, b, … name the worker of the outcomes after them."""

    @pytest.mark.parametrize(
        ("recent", "out"),
        [
            ("aAAAAAb....", True),
            ("aAAAAb....", False),  # below the threshold
            ("aAAAAAb.", True),  # the other finished one attempt
            ("aAAAAAb." + "a......." * 5, True),  # it was well before
            ("aAAAAAb......c......", True),
            ("aAAAAAb...A..c.A....d...A...A.", False),  # noise is everywhere
            ("aAAAAAAAAAAb...A..c.A....d...A...A.", True),  # beyond that noise
            ("aAA.AAA.AAA.AAAAb" + "." * 30, True),  # mostly
            ("aA.A.A.b" + "." * 30, False),
        ],
    )
    def test_what_one_worker_alone_sees_ejects_it(self, recent: str, out: bool) -> None:
        decided = decide_evidence(POLICY, window(recent), 0.5, "a")
        assert isinstance(decided, Eject) if out else decided is None
        if isinstance(decided, Eject):
            assert decided.limit == window(recent).workers // 2

    def test_each_decides_about_itself(self) -> None:
        assert decide_evidence(POLICY, window("aAAAAAAAAAAAAb...."), 0.5, "b") is None

    def test_alone_it_is_the_fleet(self) -> None:
        assert isinstance(decide_evidence(POLICY, window("aAAAAA"), 0.5, "a"), BreakerRecord)

    @pytest.mark.parametrize(
        "recent",
        [
            "aAAAAAbAAAAAc.........d.........",  # two in a row each: an outage, as it begins
            "aAAAAAbAAAAA",
            "a" + "AA." * 9 + "b" + "AA." * 8,  # a brown-out
            "aAbAaAbAaAbAaAbAaAbAb" + "." * 30,  # the fleet's own streak
        ],
    )
    def test_what_several_see_opens(self, recent: str) -> None:
        assert isinstance(decide_evidence(POLICY, window(recent), 0.5, "b"), BreakerRecord)

    def test_an_ejected_worker_still_bears_witness(self) -> None:
        """The first worker of an outage is taken for a bad one; the second is believed."""
        seen = replace(window("bAAAAAaAAAAAAAc.........d........."), ejected={"a": NOW + 1})
        assert isinstance(decide_evidence(POLICY, seen, 0.5, "b"), BreakerRecord)

    def test_an_ejected_workers_failures_do_not_weigh_on_the_fleet(self) -> None:
        seen = replace(window("bA....c.A...a" + "A" * 30), ejected={"a": NOW + 1})
        for me in "abc":
            assert decide_evidence(POLICY, seen, 0.5, me) is None

    def test_never_more_than_half_are_out(self) -> None:
        seen = replace(window("b" + "A" * 12 + "c.d."), workers=3, ejected={"x": NOW + 1})
        assert isinstance(decide_evidence(POLICY, seen, 0.5, "b"), BreakerRecord)

    def test_a_shadow_ejects_nobody(self) -> None:
        shadow = replace(POLICY, mode=Mode.SHADOW)
        assert decide_evidence(shadow, window("aAAAAAb...."), 0.5, "a") is None

    @pytest.mark.parametrize(("workers", "opens"), [(1, True), (2, False)])
    def test_a_failed_trial_of_the_only_worker_opens(self, workers: int, opens: bool) -> None:
        seen = replace(window("A"), workers=workers)
        assert (decide_alone(POLICY, seen, "A", 0.5) is not None) is opens


class TestSharedDependency:
    def window(self, *failing: str) -> Window:
        seen = tuple(Seen("A", "x", failing[n % len(failing)], UUID(int=n)) for n in range(12))
        return replace(window("A" * 12), seen=seen, sources=3)

    def test_what_one_type_alone_sees_is_about_that_type(self) -> None:
        assert decide_evidence(POLICY, self.window("email"), 0.5) is None

    def test_two_types_are_the_dependency(self) -> None:
        assert isinstance(decide_evidence(POLICY, self.window("email", "sms"), 0.5), BreakerRecord)

    def test_a_type_alone_is_all_there_is(self) -> None:
        seen = replace(self.window("email"), sources=1)
        assert isinstance(decide_evidence(POLICY, seen, 0.5), BreakerRecord)
