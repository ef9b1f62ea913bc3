"""What each contender is put through, from an empty queue to an empty queue."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.figures import Span
from tests.bench.peers.client import Client
from tests.bench.peers.contender import Contender, Place
from tests.bench.peers.notes import latencies, steady
from tests.bench.peers.scores import Scores
from tests.bench.stand import Stand

LOADS = (10, 50, 80)  # percent of capacity
SECONDS = 3.0  # of each load
WARM_SECONDS = 0.5  # before them, which do not count: batches find their size, pools their connections
FEWEST = 100  # jobs of a load, or of a drain


@dataclass(frozen=True, slots=True)
class Pace:
    """A load: `total` jobs, `rate` a second; the first `warm` do not count."""

    rate: float
    warm: int
    total: int

    @classmethod
    def at(cls, rate: float) -> Pace:
        warm = round(rate * WARM_SECONDS)
        return cls(rate, warm, warm + max(round(rate * SECONDS), FEWEST))


@dataclass(slots=True)
class Score:
    """Takes down what one contender reached on one stand."""

    scores: Scores
    name: str
    stand: Stand

    def __call__(self, what: str, span: Span) -> float:
        """A round; returns the rate over all rounds so far."""
        used = self.stand.meter.between(span.began, span.ended)
        self.scores.memory(self.name, self.stand.meter.memory())
        return self.scores.add(self.name, what, span, used)


@dataclass(slots=True)
class Course:
    """One contender at one place; `jobs` is what it has to drain."""

    contender: Contender
    place: Place
    score: Score
    jobs: int

    def run(self) -> None:
        """One round."""
        contender, place = self.contender, self.place
        with contender.open(place) as client:
            waiting = self._submit(client)
            waiting += self._fill(client, "noop", self.jobs - waiting)
            with contender.working(place, "noop"):
                self.score("drain, no-op", steady(place.notes.take(waiting)))
                self._live(client, self.jobs // 2)
            waiting = self._fill(client, "io", self.jobs // 2)
            with contender.working(place, "io"):
                self.score("drain, 5 ms I/O", steady(place.notes.take(waiting)))

    def _submit(self, client: Client) -> int:
        """How many wait now."""
        waiting = 0
        for door, width in self.contender.submits:
            waiting += client.submit("noop", door, width, width).jobs  # connects, declares the queue
            total = self.jobs // 2 if door == "many" else self.jobs // 20 if width == 1 else self.jobs // 4
            span = client.submit("noop", door, total, width)
            self.score(f"submit, {_door(door, width)}", span)
            waiting += span.jobs
        return waiting

    def _fill(self, client: Client, task: str, jobs: int) -> int:
        door, width = self.contender.fill
        return client.submit(task, door, jobs, width).jobs if jobs > 0 else 0

    def _live(self, client: Client, jobs: int) -> None:
        """Client and workers at the same time: what they keep up, and how long a job takes below that."""
        door, width = self.contender.live
        sent = client.submit("noop", door, jobs, width)
        notes = self.place.notes.take(jobs)
        capacity = self.score("through", Span(jobs, sent.began, notes[-1].ended))
        for percent in LOADS:
            pace = Pace.at(capacity * percent / 100)
            client.pace("noop", door, pace.total, pace.rate)
            notes = self.place.notes.take(pace.total)
            self.score(f"at {percent} %", latencies(notes, pace.warm))
            if recorded := self.contender.recorded(self.place, notes):
                self.score(f"at {percent} %, recorded", latencies(recorded, pace.warm))


def _door(door: str, width: int) -> str:
    each = f"{width} in flight"
    return {"one": each, "own": f"its client, {each}", "many": "in bulk", "rest": f"REST, {each}"}[door]
