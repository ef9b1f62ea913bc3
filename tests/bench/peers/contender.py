"""Who is measured, and where."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.peers.client import Client
from tests.bench.peers.notes import Note, Notes
from tests.bench.stand import Measured, Stand

APPS = Path(__file__).with_name("apps")
ONE_BY_ONE = (("one", 1), ("one", 32), ("one", 256))


@dataclass(slots=True)
class Place:
    """Where a contender runs: the servers' URLs by name, and the folder in which its tasks note that they ran. `more`
    is the environment of this place alone."""

    stand: Stand
    urls: Mapping[str, str]
    prefix: str
    folder: Path
    more: Mapping[str, str] = field(default_factory=dict)
    notes: Notes = field(init=False)
    dev: Measured | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.notes = Notes(self.folder)

    @property
    def environ(self) -> dict[str, str]:
        """What every process of a contender is told."""
        told = {"PYTHONPATH": str(APPS), "BENCH_TALLY": str(self.folder), "BENCH_PREFIX": self.prefix}
        return {**told, **self.more}

    @contextlib.contextmanager
    def client(self, command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Client]:
        made = Client(command, {**self.environ, **environ}, self.stand.directory)
        self.stand.meter.follow("client", made.pid)
        with made as client:
            yield client


@dataclass(frozen=True, kw_only=True)
class Contender(ABC):
    """`omits` says what it does not do for a job that another here does, `setup` how it is configured and why.
    `submits` are its doors and how many calls are in flight, `fill` is its fastest one, `live` what a program of its
    users would use, while its workers run; `servers` are those that it uses, `pins` its packages; `share` is its part
    of the jobs of a round: a slow one gets fewer."""

    name: str
    omits: str
    setup: str
    submits: Sequence[tuple[str, int]] = ONE_BY_ONE
    servers: Sequence[str]
    pins: Sequence[str] = ()
    fill: tuple[str, int] = ("one", 32)
    live: tuple[str, int] = ("one", 32)
    share: float = 1.0

    @abstractmethod
    def open(self, place: Place) -> AbstractContextManager[Client]:
        """What takes jobs, and a client of it; nothing works them off."""

    @abstractmethod
    def working(self, place: Place, task: str) -> AbstractContextManager[None]:
        """Workers, set up for one of the two tasks."""

    def recorded(self, place: Place, notes: Sequence[Note]) -> list[Note]:
        """Of those no-op jobs, with the moment when the outcome was safe for its end; empty where nobody keeps it."""
        return []
