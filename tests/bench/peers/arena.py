"""Where contenders meet: everybody's servers, and a fresh stand on them for each turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.figures import Report
from tests.bench.meter import servers
from tests.bench.peers.catalog import ALL, EMBEDDED
from tests.bench.peers.contender import Contender, Place
from tests.bench.peers.course import FEWEST, Course, Score
from tests.bench.peers.floors import FLOORS, Floor
from tests.bench.peers.scores import Scores
from tests.bench.stand import Sizes, Stand
from tests.servers import PrivateRedis

EVERYBODY: Sequence[Contender | Floor] = (*FLOORS, *ALL)


class Redis(PrivateRedis):
    """As the peers that keep their jobs in it recommend it: an append-only file, synced every second."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--appendfsync", "everysec"]


@dataclass(slots=True)
class Arena:
    """Everybody's servers, and a fresh stand on them for each turn."""

    urls: Mapping[str, str]
    namespace: str
    sizes: Sizes
    loop: asyncio.Runner
    scores: Scores

    def stand(self, who: Contender | Floor, report: Report) -> Stand:
        # A thousand types, and those of the measurements before.
        environ = {"SELFHEAL_NAMESPACE": self.namespace, "MAX_JOB_TYPES": "3000"}
        if who is not EMBEDDED:
            environ |= {
                "DATABASE_URL": self.urls["postgres"],
                "RABBITMQ_URL": self.urls["rabbitmq"],
                "REDIS_URL": self.urls["redis"],
            }
        known = servers(self.urls["postgres"], self.urls["redis"])
        matches = {name: known[name] for name in who.servers}
        return Stand(environ, matches, report, self.sizes, lends_client=isinstance(who, Floor))

    def turn(self, who: Contender | Floor, number: int) -> None:
        """One round of one of them."""
        with self.stand(who, Report([])) as stand:
            place = Place(stand, self.urls, f"{self.namespace}.{number}", stand.directory / "notes")
            score = Score(self.scores, who.name, stand)
            if isinstance(who, Floor):
                who.run(place, score, self.loop, self.sizes.jobs // 2)
            else:
                Course(who, place, score, max(round(self.sizes.jobs / 2 * who.share), FEWEST)).run()
