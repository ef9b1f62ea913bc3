"""What the tasks noted (`apps/tally.py`), read while they still run."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.figures import Span
from tests.bench.peers.apps.tally import FLOATS

PATIENCE = 150.0
GRACE = 20.0  # without a single new note
LOOK = 0.02
FORMAT = f"={FLOATS}d"
SIZE = struct.calcsize(FORMAT)
BLOCK = 1024  # notes


class Note(NamedTuple):
    """One run of one job; Unix seconds."""

    sent: float
    began: float
    ended: float


class Notes:
    """Each note is given out once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}  # bytes

    def take(self, total: int) -> list[Note]:
        """The next `total` notes, by their end. Raises AssertionError when they do not come."""
        found: list[Note] = []
        deadline = time.monotonic() + PATIENCE
        quiet = time.monotonic() + 2 * GRACE  # workers may still be starting
        while len(found) < total:
            fresh = self._fresh()
            found += fresh
            now = time.monotonic()
            quiet = now + GRACE if fresh else quiet
            assert now < min(deadline, quiet), f"{len(found)} of {total} jobs were run"
            time.sleep(LOOK)
        return sorted(found, key=lambda note: note.ended)

    def _fresh(self) -> list[Note]:
        found: list[Note] = []
        for path in self._folder.glob("*.f64"):
            at = self._read.get(path, 0)
            for note in _notes(path, at):
                found.append(note)
                at += SIZE
            self._read[path] = at
        return found


def _notes(path: Path, at: int) -> Iterator[Note]:
    """From that byte on. Behind the last note the file ends, or there are zeros."""
    with path.open("rb") as file:
        file.seek(at)
        while len(block := file.read(BLOCK * SIZE)) >= SIZE:
            for note in struct.iter_unpack(FORMAT, block[: len(block) // SIZE * SIZE]):
                if not note[-1]:
                    return
                yield Note(*note)


def steady(notes: Sequence[Note]) -> Span:
    """Between the tenth and the ninetieth of every hundred: start-up and the last stragglers are left out."""
    first, last = len(notes) // 10, len(notes) * 9 // 10
    return Span(last - first, notes[first].ended, notes[last].ended)


def latencies(notes: Sequence[Note], warm: int) -> Span:
    """From the moment when each was to be submitted to its end; the first `warm` are left out."""
    counted = sorted(notes)[warm:]
    return Span(
        len(counted),
        counted[0].sent,
        max(note.ended for note in counted),
        [note.ended - note.sent for note in counted],
    )
