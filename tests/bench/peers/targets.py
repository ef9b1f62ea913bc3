"""What is aimed at, as ratios of two figures of the same run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.figures import table
from tests.bench.peers.scores import Scores

OURS = "selfheal"
DRAIN, HALF, RECORDED = "drain, no-op", "at 50 %", "at 50 %, recorded"


@dataclass(frozen=True, slots=True)
class Target:
    """Our rate over another's is at least `least`, or our p99 over another's at most `most`."""

    ours: str
    other: str
    theirs: str
    least: float | None = None
    most: float | None = None

    def ratio(self, scores: Scores) -> float | None:
        """None where one of the two was not measured."""
        ours, theirs = scores.get(OURS, self.ours), scores.get(self.other, self.theirs)
        if ours is None or theirs is None:
            return None
        if self.least is not None:
            return ours.rate / theirs.rate
        return ours.latency(99) / theirs.latency(99)

    def row(self, ratio: float) -> tuple[str, str, str, str]:
        if self.least is not None:
            met, aim = ratio >= self.least, f"at least {self.least:.1f} x"
        else:
            assert self.most is not None
            met, aim = ratio <= self.most, f"p99 at most {self.most:.1f} x"
        theirs = f"{self.other}, {self.theirs}"
        return f"{self.ours}, beside {theirs}", aim, f"{ratio:.2f} x", "met" if met else "**MISSED**"


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
    """A table of those that this run can judge."""
    rows = [target.row(ratio) for target, ratio in _judged(scores)]
    return table("### Targets", ("selfheal on its servers", "aim", "measured", ""), rows)


def _judged(scores: Scores) -> Iterator[tuple[Target, float]]:
    for target in TARGETS:
        ratio = target.ratio(scores)
        if ratio is not None:
            yield target, ratio
