"""The section on the contenders: targets first, then who reached what, and what none of the figures says."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Protocol

from tests.bench.figures import table
from tests.bench.peers.scores import Scores
from tests.bench.peers.targets import OURS, verdicts

COMPARED = ("submit, 32 in flight", "drain, no-op", "drain, 5 ms I/O", "through")


class Described(Protocol):
    """A contender or a floor."""

    @property
    def name(self) -> str: ...
    @property
    def omits(self) -> str: ...
    @property
    def setup(self) -> str: ...
    @property
    def pins(self) -> Sequence[str]: ...


def sheet(heading: Sequence[str], scores: Scores, described: Sequence[Described]) -> str:
    """Markdown; empty when nobody was measured."""
    if not scores.names:
        return ""
    busy = f"Cores busy elsewhere: {median(scores.others):.2f} (median), {max(scores.others):.2f} (most)."
    parts = [
        *heading,
        busy,
        verdicts(scores),
        scores.rates("### Submits", "submit"),
        scores.rates("### Drains", "drain", "through"),
        _ratios(scores),
        scores.latencies("### End to end", "alone", "at "),
        scores.costs("### What a job costs: submit", "submit"),
        scores.costs("### What a job costs: drain, and both at once", "drain", "through"),
        scores.memories("### Memory"),
        _notes(scores, described),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ratios(scores: Scores) -> str:
    rows = []
    for name in scores.names:
        cells = []
        for what in COMPARED:
            ours, theirs = scores.get(OURS, what), scores.get(name, what)
            cells.append(f"{ours.rate / theirs.rate:.2f} x" if ours and theirs else "")
        if name != OURS and any(cells):
            rows.append((name, *cells))
    return table("### selfheal on its servers, as a multiple of each", ("", *COMPARED), rows)


def _notes(scores: Scores, described: Sequence[Described]) -> str:
    told = [_told(each) for each in described if each.name in scores.names]
    absent = [f"- **{name}** was not measured: {why}" for name, why in scores.absent.items()]
    return "\n".join(["### How each is set up, and what it does not do", "", *told, *absent])


def _told(each: Described) -> str:
    pins = f" ({', '.join(each.pins)})" if each.pins else ""
    return f"- **{each.name}**{pins}: {each.setup} {each.omits}"
