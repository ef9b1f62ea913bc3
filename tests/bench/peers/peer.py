"""Other job systems: each an application in `apps`, with its library's own command for workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.peers.client import Client
from tests.bench.peers.contender import Contender, Place
from tests.bench.peers.environments import node_environment, python_environment

LAST_ACKS = 0.5  # seconds


@dataclass(frozen=True, kw_only=True)
class Peer(Contender):
    """A library with an application in `apps`. The first word of a command is a program of its environment; `workers`
    are the commands by task."""

    environment: str
    workers: Mapping[str, Sequence[Sequence[str]]]
    client: Sequence[str]
    prepare: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self, place: Place) -> Iterator[Client]:
        environ = self._environ(place)
        if self.prepare:
            assert place.stand.run("client", self._command(self.prepare), environ).await_end() == 0
        with place.client(self._command(self.client), environ) as client:
            yield client

    @contextlib.contextmanager
    def working(self, place: Place, task: str) -> Iterator[None]:
        environ = self._environ(place)
        running = [
            place.stand.run("worker", self._command(command), environ) for command in self.workers[task]
        ]
        try:
            yield
        finally:
            time.sleep(LAST_ACKS)  # then killed: all work is done, and some take long to leave
            for program in running:
                program.kill()

    def _environ(self, place: Place) -> dict[str, str]:
        return {**place.environ, "BENCH_URL": place.urls[self.servers[0]], **self.settings}

    def _command(self, words: Sequence[str]) -> list[str]:
        return [str(python_environment(self.environment, self.pins) / words[0]), *words[1:]]


@dataclass(frozen=True, kw_only=True)
class NodePeer(Peer):
    """The same in JavaScript: the program is Node, which is told where its modules are."""

    def _environ(self, place: Place) -> dict[str, str]:
        modules = node_environment(self.environment, self.pins)
        return {**super()._environ(place), "BENCH_MODULES": str(modules)}

    def _command(self, words: Sequence[str]) -> list[str]:
        return list(words)
