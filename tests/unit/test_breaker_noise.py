"""Random errors open nothing, and real outages open soon: whole histories, decided after each failure.

False openings in longer runs of `History`, with every error under one code, which is the worst case:

| errors | 500,000 attempts, one worker | 500,000 attempts, four workers | 20,000 cold starts of 100 attempts |
|-------:|-----------------------------:|-------------------------------:|-----------------------------------:|
|    5 % |                            0 |           0 (and 0 ejections)  |                                  0 |
|   20 % |                            0 |           0 (and 7 ejections)  |       6 (all of the first 5 fail)  |

The rule before it ("half of the last 50, or of as many as there are") opened falsely in 4 % of cold starts at 20 %.

Attempts wasted until it opens, once everything fails (median and worst of 100 runs):

| workers | cold | warm, no noise | warm, 5 % | warm, 20 % |
|--------:|-----:|---------------:|----------:|-----------:|
|       1 | 5, 5 |         10, 10 |    10, 14 |     14, 16 |
|       2 | 5, 5 |         11, 12 |    11, 15 |     14, 18 |
|       4 | 5, 5 |         10, 17 |    10, 17 |     14, 16 |
|      20 | 5, 5 |         10, 10 |    10, 11 |     14, 16 |
"""

from __future__ import annotations

import random
from collections import Counter, deque
from uuid import UUID

import pytest

from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, Eject, Seen, Window, outcomes_kept
from jobkit.domain.tripping import decide_evidence

NOW = 1_700_000_000_000
POLICY = BreakerPolicy()
CLOSED = BreakerRecord("email", generation=7)
SAMPLE = POLICY.outcomes_needed
KEPT = outcomes_kept(SAMPLE)


class History:
    """Attempts of a fleet, one after the other, all within one window. An ejected worker is counted, and stays
    out for a thousand attempts of the fleet."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.seen: deque[Seen] = deque(maxlen=KEPT)
        self.jobs: Counter[str] = Counter()
        self.active: set[str] = set()
        self.number = 0
        self.ejections = 0
        self.out: dict[str, int] = {}

    def attempt(self, code: str, worker: int = 0) -> bool:
        """Whether the breaker opens now."""
        me = str(worker)
        self.number += 1
        if self.out.get(me, self.number) + 1_000 < self.number:
            del self.out[me]
            self.seen = deque((s for s in self.seen if s.worker != me), KEPT)
        if me in self.out:
            return False
        self.active.add(me)
        self.seen.appendleft(Seen(code, me, "email", UUID(int=self.number) if code else None))
        if not code:
            return False  # what a success changes is for the better
        self.jobs[code] += 1
        seen = tuple(self.seen)
        window = Window(
            NOW,
            CLOSED,
            self.jobs,
            self.jobs,
            seen[:SAMPLE],
            NOW - 60_000,
            len(self.active),
            1,
            self.out,
            Counter(outcome.code for outcome in seen[SAMPLE:]),
        )
        decision = decide_evidence(POLICY, window, 0.5, me)
        if isinstance(decision, Eject):
            self.ejections += 1
            self.out[me] = self.number
        return isinstance(decision, BreakerRecord)

    def run(self, draw: random.Random, rate: float, attempts: int, codes: str = "A") -> int:
        """How often it opened."""
        return sum(
            self.attempt(draw.choice(codes) if draw.random() < rate else "", draw.randrange(self.workers))
            for _ in range(attempts)
        )


@pytest.mark.parametrize(("workers", "attempts"), [(1, 200_000), (4, 50_000)])
def test_a_twentieth_of_random_errors_opens_nothing(workers: int, attempts: int) -> None:
    """A million of them: tests/drills/test_noise.py."""
    assert History(workers).run(random.Random(5), 0.05, attempts) == 0


@pytest.mark.parametrize("codes", ["A", "ABC"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_fifth_of_random_errors_opens_nothing(workers: int, codes: str) -> None:
    assert History(workers).run(random.Random(20), 0.2, 40_000, codes) == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_a_third_of_random_errors_is_not_half_of_them(workers: int) -> None:
    """Somewhere in so many attempts half of fifty in a row fail. What still works is to be used."""
    draw = random.Random(30)
    history = History(workers)
    history.run(draw, 0, 300)
    assert sum(history.run(draw, 0.3, 10_000) for _ in range(2)) == 0


@pytest.mark.parametrize(("rate", "most"), [(0.05, 0), (0.2, 3)])
def test_a_cold_start_is_no_outage(rate: float, most: int) -> None:
    """Of two thousand starts. The first five attempts all failing is an outage by any rule that stops at five."""
    draw = random.Random(7)
    assert sum(History().run(draw, rate, 60) > 0 for _ in range(2_000)) <= most


def wasted(history: History, failing: float = 1.0, draw: random.Random | None = None) -> int:
    """Attempts from here on until it opens."""
    draw = draw or random.Random(1)
    count = 0
    for _ in range(1_000):
        worker = draw.randrange(history.workers)
        count += str(worker) not in history.out
        if history.attempt("A" if draw.random() < failing else "", worker):
            return count
    raise AssertionError("it never opened")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_cold_type_that_only_fails_opens_within_ten(workers: int) -> None:
    for seed in range(50):
        assert wasted(History(workers), draw=random.Random(seed)) <= 10


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("workers", [1, 2, 4, 20])
def test_a_warm_type_that_only_fails_opens_within_twenty_five(workers: int, noise: float) -> None:
    for seed in range(50):
        history, draw = History(workers), random.Random(seed)
        assert history.run(draw, noise, 1_000) == 0
        assert wasted(history, draw=draw) <= 25


@pytest.mark.parametrize("workers", [1, 4])
def test_a_brown_out_of_most_calls_opens_within_a_sample_or_so(workers: int) -> None:
    history, draw = History(workers), random.Random(20)
    history.run(draw, 0, 1_000)
    assert wasted(history, 0.7, draw) <= 80


@pytest.mark.parametrize("before", [0.05, 0.3])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_share_that_grows_past_the_rate_opens_whatever_was_usual(workers: int, before: float) -> None:
    for seed in range(20):
        history, draw = History(workers), random.Random(seed)
        history.run(draw, before, 1_000)
        assert wasted(history, 0.6, draw) <= KEPT
