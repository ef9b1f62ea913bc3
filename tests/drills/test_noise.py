"""(h) Random errors open nothing: the rule that decides, on the attempts of tests/unit/test_breaker_noise.py."""

from __future__ import annotations

import random

import pytest

from tests.drills.figures import Drill
from tests.unit.test_breaker_noise import History


@pytest.mark.parametrize("workers", [1, 4])
def test_h_noise(drill: Drill, scale: float, workers: int) -> None:
    attempts = round(1_000_000 * scale)
    history = History(workers)
    opened = history.run(random.Random(workers), 0.05, attempts)
    drill.tell("simulated attempts, 5 % of them failing", attempts)
    drill.exactly("false openings", opened, 0)
    if workers > 1:
        drill.exactly("false ejections of a worker", history.ejections, 0)
    drill.judge()
