"""What was measured, and its tables. A figure is the median of its rounds, with the lowest and the highest beside
it; a ratio compares it with something bare that was measured in the same run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PARTS = ("jobapi", "worker", "controlplane", "dev", "echo", "rabbitmq", "postgres", "redis", "client")


@dataclass(frozen=True, slots=True)
class Span:
    """One round: `jobs` between two moments (Unix time), and the latencies (seconds) of those that have one."""

    jobs: int
    began: float
    ended: float
    latencies: Sequence[float] = ()

    @property
    def rate(self) -> float:
        return self.jobs / max(self.ended - self.began, 1e-9)


@dataclass(slots=True)
class Row:
    """All rounds of one measurement. `against` names the rows that it is compared with."""

    name: str
    against: Sequence[str]
    rates: list[float] = field(default_factory=list)
    latencies: list[Sequence[float]] = field(default_factory=list)
    cpu: list[Mapping[str, float]] = field(default_factory=list)  # microseconds a job, by part
    others: list[float] = field(default_factory=list)  # cores that somebody else kept busy


class Report:
    """Filled round by round; rows keep the order in which they were first seen."""

    def __init__(self, heading: Sequence[str]) -> None:
        self._heading = heading
        self._rates: dict[str, Row] = {}
        self._latencies: dict[str, Row] = {}
        self._memory: dict[str, float] = {}
        self._notes: list[str] = []

    def rate(self, name: str, span: Span, used: Mapping[str, float], against: Sequence[str] = ()) -> None:
        """A round of something that is done many times a second."""
        row = self._rates.setdefault(name, Row(name, against))
        row.rates.append(span.rate)
        self._account(row, span, used)

    def latency(self, name: str, span: Span, used: Mapping[str, float], against: Sequence[str] = ()) -> None:
        """A round of something that somebody waits for; nothing `used` where another row tells it."""
        row = self._latencies.setdefault(name, Row(name, against))
        row.latencies.append(span.latencies)
        if used:
            self._account(row, span, used)

    def cost(self, name: str) -> float:
        """Microseconds of processor time a job, of everybody but the client."""
        return median(
            [sum(us for part, us in cpu.items() if part != "client") for cpu in self._rates[name].cpu]
        )

    def note(self, sentence: str) -> None:
        """A figure that is neither a rate nor a latency."""
        self._notes.append(sentence)

    def memory(self, peaks: Mapping[str, float]) -> None:
        """Peak MiB by part; the highest that was ever told stays."""
        for part, peak in peaks.items():
            self._memory[part] = max(peak, self._memory.get(part, 0.0))

    @staticmethod
    def _account(row: Row, span: Span, used: Mapping[str, float]) -> None:
        ours = {part: seconds for part, seconds in used.items() if part != "machine"}
        row.cpu.append({part: seconds / span.jobs * 1e6 for part, seconds in ours.items()})
        others = used.get("machine", 0.0) - sum(ours.values())
        row.others.append(max(others, 0.0) / max(span.ended - span.began, 1e-9))

    def markdown(self) -> str:
        """Empty when nothing was measured."""
        if not (self._rates or self._latencies or self._notes):
            return ""
        parts = [
            *self._heading,
            self._rate_table(),
            self._latency_table(),
            self._cpu_table(),
            self._memory_line(),
            *self._notes,
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    # -- tables

    def _rate_table(self) -> str:
        rows = [
            (row.name, short(median(row.rates)), spread(row.rates), self._ratios(row))
            for row in self._rates.values()
        ]
        return table("### How many a second", ("measured", "a second", "rounds", "ratio"), rows)

    def _ratios(self, row: Row) -> str:
        known = [(name, self._rates[name]) for name in row.against if name in self._rates]
        return "; ".join(f"{median(row.rates) / median(other.rates):.2f} x {name}" for name, other in known)

    def _latency_table(self) -> str:
        rows = []
        for row in self._latencies.values():
            cells = [median([percentile(r, p) * 1e3 for r in row.latencies]) for p in (50, 95, 99)]
            between = spread([percentile(r, 50) * 1e3 for r in row.latencies])
            rows.append((row.name, *map(short, cells), between, self._latency_ratios(row)))
        columns = ("measured", "p50 ms", "p95 ms", "p99 ms", "p50 of the rounds", "ratio p50 (p99)")
        return table("### How long one takes", columns, rows)

    def _latency_ratios(self, row: Row) -> str:
        def at(which: Row, percent: int) -> float:
            return median([percentile(r, percent) for r in which.latencies])

        known = [(name, self._latencies[name]) for name in row.against if name in self._latencies]
        return "; ".join(
            f"{at(row, 50) / at(other, 50):.2f} ({at(row, 99) / at(other, 99):.2f}) x {name}"
            for name, other in known
        )

    def _cpu_table(self) -> str:
        # What has both a rate and latencies was used up once.
        measured = list(
            (self._rates | {n: r for n, r in self._latencies.items() if n not in self._rates}).values()
        )
        shown = [p for p in PARTS if any(cpu.get(p, 0) > 0 for row in measured for cpu in row.cpu)]
        rows = []
        for row in measured:
            if not row.cpu:
                continue
            used = {p: median([cpu.get(p, 0.0) for cpu in row.cpu]) for p in shown}
            cells = [short(used[p]) if used[p] >= 0.5 else "" for p in shown]
            total = sum(seconds for part, seconds in used.items() if part != "client")
            rows.append((row.name, *cells, short(total), f"{median(row.others):.2f}"))
        columns = ("microseconds of processor time a job", *shown, "all but client", "cores busy elsewhere")
        return table("### What it costs", columns, rows)

    def _memory_line(self) -> str:
        told = [f"{part} {self._memory[part]:.0f} MiB" for part in PARTS if part in self._memory]
        return f"Peak resident memory: {', '.join(told)}." if told else ""


def write(page: Path, section: str, text: str) -> None:
    """Put `text` between the two markers that `page` has for that section. Raises ValueError where there are none."""
    begin, end = f"<!-- bench {section}: begin, written by `make bench` -->", f"<!-- bench {section}: end -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    whole = page.read_text(encoding="utf-8")
    if not block.search(whole):
        raise ValueError(f"{page.name} has no line '{begin}' before a line '{end}'")
    page.write_text(block.sub(lambda _: f"{begin}\n\n{text}\n{end}", whole), encoding="utf-8")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(percent * len(ordered) / 100) - 1, 0)]


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def spread(values: Sequence[float], shown: Callable[[float], str] = short) -> str:
    return f"{shown(min(values))} to {shown(max(values))}" if len(values) > 1 else "one"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown that can be read in a terminal too."""
    if not rows:
        return ""
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (w + 1) + ('-' if i == 0 else ':') for i, w in enumerate(widths))}|"
    return "\n".join([title, "", line(columns), rule, *map(line, rows)])
