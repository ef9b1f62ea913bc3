"""Whether memory stays where it is under load, for as long as you like (`-k memory --minutes 60`)."""

from __future__ import annotations

from statistics import median

import pytest

from tests.bench.figures import Report
from tests.bench.peers.arena import Arena
from tests.bench.peers.catalog import SERVERS
from tests.bench.peers.contender import Place
from tests.bench.stand import OURS

pytestmark = pytest.mark.timeout(4 * 3600)

RATE = 1_000  # jobs a second
SLICE = 10  # seconds
FLAT = 0.05  # of what it was


def test_memory(arena: Arena, scale: Report, minutes: float) -> None:
    """What is compared is memory of the processes' own, in the second tenth of the time (the first warms up) and in
    the last one."""
    if not minutes:
        pytest.skip("tell --minutes")
    slices = max(round(minutes * 60 / SLICE), 10)
    seen: dict[str, list[float]] = {}
    with arena.stand(SERVERS, scale) as stand:
        place = Place(stand, arena.urls, f"{arena.namespace}.memory", stand.directory / "notes")
        with SERVERS.open(place) as client, SERVERS.working(place, "noop"):
            for number in range(slices):
                client.pace("noop", "own", RATE * SLICE, RATE)
                place.notes.take(RATE * SLICE)
                own = stand.meter.own_memory()
                for part in OURS:
                    seen.setdefault(part, []).append(own.get(part, 0.0))
                print(
                    f"{(number + 1) * SLICE} s: "
                    + ", ".join(f"{part} {own.get(part, 0):.1f}" for part in OURS)
                )
    tenth = slices // 10
    for part, sizes in seen.items():
        early, late = median(sizes[tenth : 2 * tenth]), median(sizes[-tenth:])
        if not early:
            continue
        verdict = "met" if late <= early * (1 + FLAT) else "**MISSED**"
        scale.note(
            f"Memory of {part} over {minutes:g} minutes at {RATE:,} jobs a second: {early:.1f} MiB, then "
            f"{late:.1f} MiB (aim: flat; {verdict})."
        )
