"""The contenders as bars. Drawn by matplotlib in an environment of its own, as the contenders have theirs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.peers.contender import APPS
from tests.bench.peers.environments import python_environment
from tests.bench.peers.scores import PARTS, Scores
from tests.bench.peers.targets import DRAIN, HALF, OURS

PINS = ("matplotlib==3.11.2",)
UNSEEN = ("raw PostgreSQL",)  # beside its bar the others are lines
WORKERS = ("worker", "dev")
SYSTEM = tuple(part for part in PARTS if part != "client")


def draw(scores: Scores, file: Path) -> None:
    """Write `file` (SVG). Raises NotInstalled, or AssertionError with what the program said."""
    python = python_environment("plot", PINS) / "python"
    done = subprocess.run(
        [str(python), str(APPS / "plot.py"), str(file)],
        input=json.dumps(_panels(scores)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _panels(scores: Scores) -> list[dict[str, Any]]:
    """Each bar is a name, a figure and the rounds' lowest and highest; ours are to stand out."""
    rates: list[dict[str, Any]] = [
        {"title": title, "bars": _rates(scores, what)}
        for title, what in (
            ("submitted with 32 in flight, a second", "submit, 32 in flight"),
            ("no-op jobs drained, a second", DRAIN),
            ("5 ms I/O jobs drained, a second", "drain, 5 ms I/O"),
            ("submitted and run at once, a second", "through"),
        )
    ]
    waits = {"title": "p99 end to end at half of its own capacity, ms", "log": True, "bars": _waits(scores)}
    costs = {"title": "µs of processor time to drain a job, all but the client", "bars": _costs(scores)}
    return [{**panel, "ours": OURS} for panel in (*rates, costs, waits)]


def _rates(scores: Scores, what: str) -> list[tuple[str, float, float, float]]:
    found = [(name, scores.get(name, what)) for name in scores.names if name not in UNSEEN]
    return [(n, s.rate, min(s.rates), max(s.rates)) for n, s in found if s]


def _waits(scores: Scores) -> list[tuple[str, float, float, float]]:
    found = [(name, scores.get(name, HALF)) for name in scores.names]
    return [(n, ms, ms, ms) for n, s in found if s for ms in [s.latency(99) * 1e3]]


def _costs(scores: Scores) -> list[tuple[str, float, float, float]]:
    """Not of bare drivers: there the client is all there is."""
    found = [(name, scores.get(name, DRAIN)) for name in scores.names]
    return [(n, us, us, us) for n, s in found if s and s.used(*WORKERS) for us in [s.used(*SYSTEM)]]
