"""What is aimed at, as ratios of two figures of the same run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.figures import table
from tests.bench.peers.scores import Scores

OURS = "selfheal"
ONE = "selfheal (one process)"
DRAIN, HALF, RECORDED = "drain, no-op", "at 50 %", "at 50 %, recorded"


@dataclass(frozen=True, slots=True)
class Target:
    """Our rate over another's is at least `least`, or our p99 over another's at most `most`."""

    ours: str
    other: str
    theirs: str
    least: float = 0.0
    most: float = math.inf

    def ratio(self, scores: Scores, us: str) -> float | None:
        """For one of our rows; None where one of the two was not measured."""
        ours, theirs = scores.get(us, self.ours), scores.get(self.other, self.theirs)
        if ours is None or theirs is None:
            return None
        if self.least:
            return ours.rate / theirs.rate
        return ours.latency(99) / theirs.latency(99)

    def row(self, ratios: Sequence[float | None]) -> tuple[str, ...]:
        aim = f"at least {self.least:.1f} x" if self.least else f"p99 at most {self.most:.1f} x"
        what = f"{self.ours}, beside {self.other}, {self.theirs}"
        return what, aim, *(self._cell(ratio) for ratio in ratios)

    def _cell(self, ratio: float | None) -> str:
        if ratio is None:
            return ""
        return f"{ratio:.2f} x, {'met' if self.least <= ratio <= self.most else '**MISSED**'}"


TARGETS = (
    Target("submit, in bulk", "raw aio-pika", "submit, 256 in flight", least=1.5),
    *(
        Target(f"submit, {width} in flight", "bare grpc.aio", f"submit, {width} in flight", least=0.6)
        for width in (32, 256)
    ),
    *(
        Target(DRAIN, name, DRAIN, least=least)
        for name, least in (
            ("Celery", 4.0),
            ("taskiq", 2.0),
            ("Dramatiq", 1.0),
            ("procrastinate", 3.0),
            ("BullMQ", 0.7),
        )
    ),
    *(Target(RECORDED, "bare serial chain", when, most=2.0) for when in ("alone", HALF)),
    *(
        Target(HALF, name, HALF, most=1.0)
        for name in ("Celery", "Dramatiq", "taskiq", "arq", "BullMQ", "procrastinate")
    ),
)


def verdicts(scores: Scores) -> str:
    """A table of those that this run can judge, for each of our rows."""
    rows = [
        target.row(ratios)
        for target in TARGETS
        if any(ratios := [target.ratio(scores, us) for us in (OURS, ONE)])
    ]
    return table("### Targets", ("selfheal on its servers", "aim", "2 worker processes", "one"), rows)
