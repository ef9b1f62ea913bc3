"""The attempt log as text: what the release before durations wrote, and how gaps show."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobkit.adapters import tape
from jobkit.adapters.sql.attempts import _unpack
from jobkit.domain.attempts import FIRST, Gap, Position, Raw, Span, find_gaps
from jobkit.domain.breaker import SLOW_CALL, BreakerPolicy, BreakerRecord, BreakerState
from jobkit.domain.simulation import Simulated, simulate

RECORDED = Path(__file__).parents[1] / "data" / "attempt_log.json"


class TestBeforeDurations:
    @pytest.fixture
    def recorded(self) -> Any:
        return json.loads(RECORDED.read_text(encoding="utf-8"))

    def replayed(self, recorded: Any, **candidate: Any) -> Simulated:
        policy = replace(BreakerPolicy(**recorded["policy"]), **candidate)
        entries = [Raw((ms, number), at, text) for ms, number, at, text in recorded["entries"]]
        log = list(tape.read(recorded["breaker"], entries))
        assert len(log) == len(entries)
        return simulate(policy, BreakerRecord(recorded["breaker"]), log, 0)

    def test_the_policy_in_force_gives_what_happened(self, recorded: Any) -> None:
        found = self.replayed(recorded)
        told = [[m.at, m.from_state, m.to_state, m.generation, m.error_code] for m in found.transitions]
        assert told == recorded["moves"]
        assert found.untimed == found.attempts > 0

    def test_what_was_slow_is_all_that_is_known_of_durations(self, recorded: Any) -> None:
        slow = [move.error_code for move in self.replayed(recorded, slow_call_duration=1).transitions]
        assert slow == [code for *_, code in recorded["moves"]]
        off = self.replayed(recorded, slow_call_duration=0).transitions
        assert [(m.to_state, m.error_code) for m in off] == [(BreakerState.OPEN, "A")]
        assert SLOW_CALL in slow

    def test_a_batch_in_the_database_can_be_read(self, recorded: Any) -> None:
        entries = _unpack(base64.b64decode(recorded["row"]["entries"]))
        assert [[*raw.position, raw.at, raw.text] for raw in entries] == recorded["entries"]


@pytest.mark.parametrize(
    ("spans", "gaps"),
    [
        ([], []),
        ([(1, 5, 0)], []),
        ([(1, 5, None), (6, 9, None)], []),  # of a release that did not tell
        ([(1, 5, 0), (7, 9, 5)], []),
        ([(1, 5, 0), (7, 9, 6)], [(5, 7)]),
        ([(1, 5, 0), (7, 9, 0)], [(5, 7)]),  # the store was wiped
        ([(1, 5, 0), (3, 9, 2), (10, 12, 9)], []),  # taken by two at once
        ([(1, 9, 0), (3, 5, 2), (10, 12, 9)], []),
        ([(4, 5, 3), (7, 9, 6), (12, 12, 10)], [(5, 7), (9, 12)]),  # before the first nothing is expected
    ],
)
def test_where_entries_are_missing(
    spans: list[tuple[int, int, int | None]], gaps: list[tuple[int, int]]
) -> None:
    def position(ms: int | None) -> Position | None:
        return None if ms is None else (ms, 1) if ms else FIRST

    made = [Span((first, 1), (last, 1), position(after)) for first, last, after in spans]
    assert list(find_gaps(made)) == [Gap(*gap) for gap in gaps]
