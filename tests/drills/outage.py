"""The outage of drill (a): its sizes, and the dependency that it happens to."""

from __future__ import annotations

from tests.drills.dependency import Call, Dependency, Weather, good

JOBS, CAPACITY, LATENCY, WORKERS = 10_000, 150.0, 0.05, 4
OUTAGE_SECONDS, SUBMITTING_SECONDS = 20.0, 16.0
UP, DOWN = Weather(latency=LATENCY), Weather(down=True, fails_in=0.0005)


def frail(weather: Weather = UP) -> Dependency:
    """It serves CAPACITY calls a second, turns away what comes above it at once, and is knocked over by twice as
    much."""
    return Dependency(weather, capacity=CAPACITY, collapses_at=2 * CAPACITY)


def patience(jobs: int) -> float:
    """How long a drain is waited for, in seconds."""
    return 3 * jobs / CAPACITY + 30


def served(dependency: Dependency, since: float, wanted: set[str]) -> int:
    """How many of the jobs are through. Not to be asked often: the list is long."""
    return len({c.key for c in dependency.calls if not c.code and c.began >= since} & wanted)


def rates(calls: list[Call], since: float, seconds: int = 16) -> str:
    """Good calls a second, by second."""
    per_second = [0] * seconds
    for call in good(calls):
        if 0 <= (second := int(call.ended - since)) < seconds:
            per_second[second] += 1
    return " ".join(map(str, per_second))
