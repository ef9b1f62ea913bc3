"""What the drills measured, against the marks, as one table at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

import pytest


@dataclass(frozen=True, slots=True)
class Figure:
    """`met` None: it has no mark and is told for what it is. `load`: the machine's load average when it was taken."""

    drill: str
    name: str
    value: str
    mark: str
    met: bool | None
    load: float


@dataclass(slots=True)
class Figures:
    """All drills of a run."""

    rows: list[Figure] = field(default_factory=list)

    def of(self, drill: str) -> Drill:
        return Drill(drill, self)

    def table(self) -> str:
        """One row a figure, as Markdown."""
        verdicts = {True: "met", False: "MISSED", None: ""}
        cells = [
            (row.drill, row.name, row.value, row.mark, verdicts[row.met], f"{row.load:.1f}")
            for row in self.rows
        ]
        return table(("drill", "figure", "measured", "mark", "", "load"), cells)


class Drill:
    """The figures of one drill; `judge` ends it."""

    def __init__(self, name: str, figures: Figures) -> None:
        self.name = name
        self._figures = figures
        self._missed: list[str] = []

    def tell(self, name: str, value: object) -> None:
        """A figure without a mark."""
        self._add(name, _shown(value), "", None)

    def at_most(self, name: str, value: float, mark: float, unit: str = "") -> None:
        self._add(name, f"{_shown(value)}{unit}", f"≤ {_shown(mark)}{unit}", value <= mark)

    def at_least(self, name: str, value: float, mark: float, unit: str = "") -> None:
        self._add(name, f"{_shown(value)}{unit}", f"≥ {_shown(mark)}{unit}", value >= mark)

    def exactly(self, name: str, value: float, mark: float, unit: str = "") -> None:
        self._add(name, f"{_shown(value)}{unit}", f"{_shown(mark)}{unit}", value == mark)

    def judge(self) -> None:
        """Fails the drill when a mark was missed."""
        if self._missed:
            pytest.fail(f"{self.name}: {'; '.join(self._missed)}", pytrace=False)

    def _add(self, name: str, value: str, mark: str, met: bool | None) -> None:
        self._figures.rows.append(Figure(self.name, name, value, mark, met, os.getloadavg()[0]))
        if met is False:
            self._missed.append(f"{name} {value}, mark {mark}")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, its columns aligned."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(lines[0]), rule, *map(line, lines[1:])])


def percentile(values: Sequence[float], percent: int) -> float:
    """0 of nothing."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
