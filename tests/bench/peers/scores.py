"""What all contenders reached, and the tables that set them side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.bench.figures import Span, percentile, short, spread, table

PARTS = ("jobapi", "worker", "controlplane", "dev", "echo", "rabbitmq", "postgres", "redis", "client")
PERCENTILES = (50, 99, 99.9)


@dataclass(slots=True)
class Series:
    """The rounds of one measurement of one contender."""

    rates: list[float] = field(default_factory=list)
    cpu: list[Mapping[str, float]] = field(default_factory=list)  # microseconds a job, by part
    latencies: list[Sequence[float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)

    def latency(self, percent: float) -> float:
        """Seconds, over all rounds."""
        return percentile([seconds for each in self.latencies for seconds in each], percent)

    @property
    def samples(self) -> int:
        return sum(map(len, self.latencies))

    def used(self, *parts: str) -> float:
        """Microseconds a job."""
        return median([sum(cpu.get(part, 0.0) for part in parts) for cpu in self.cpu])


class Scores:
    """Filled round by round. Contenders and measurements keep the order in which they were first seen."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}
        self._memory: dict[str, dict[str, float]] = {}
        self.absent: dict[str, str] = {}  # who could not be measured, and why
        self.others: list[float] = []  # cores that somebody else kept busy

    def add(self, name: str, what: str, span: Span, used: Mapping[str, float]) -> float:
        """A round: `used` is processor seconds by part, with that of the whole "machine". Returns the rate over all
        rounds so far."""
        series = self._series.setdefault((name, what), Series())
        series.rates.append(span.rate)
        if span.latencies:
            series.latencies.append(span.latencies)
        ours = {part: seconds for part, seconds in used.items() if part != "machine"}
        series.cpu.append({part: seconds / span.jobs * 1e6 for part, seconds in ours.items()})
        others = used.get("machine", 0.0) - sum(ours.values())
        self.others.append(max(others, 0.0) / max(span.ended - span.began, 1e-9))
        return series.rate

    def memory(self, name: str, peaks: Mapping[str, float]) -> None:
        """Peak MiB by part; the highest that was ever told stays."""
        kept = self._memory.setdefault(name, {})
        for part, peak in peaks.items():
            kept[part] = max(peak, kept.get(part, 0.0))

    def get(self, name: str, what: str) -> Series | None:
        return self._series.get((name, what))

    @property
    def names(self) -> Sequence[str]:
        return list(dict.fromkeys(name for name, _ in self._series))

    def measured(self, *prefixes: str) -> Iterator[str]:
        """Measurements whose name begins so, each once."""
        for what in dict.fromkeys(what for _, what in self._series):
            if what.startswith(prefixes):
                yield what

    # -- tables

    def rates(self, title: str, *prefixes: str) -> str:
        """Jobs a second: the median, and the rounds' lowest and highest."""
        columns = list(self.measured(*prefixes))
        rows = [
            (name, *(self._rate(name, what) for what in columns))
            for name in self.names
            if any((name, what) in self._series for what in columns)
        ]
        return table(title, ("a second (lowest to highest round)", *columns), rows)

    def _rate(self, name: str, what: str) -> str:
        series = self.get(name, what)
        return f"{short(series.rate)} ({spread(series.rates)})" if series else ""

    def latencies(self, title: str, *prefixes: str) -> str:
        """From when a job was to be submitted to its end; a percentile only where a sample lies beyond it."""
        rows = []
        for (name, what), series in self._series.items():
            if what.startswith(prefixes) and series.latencies:
                told = [percent for percent in PERCENTILES if round(series.samples * (100 - percent)) >= 100]
                cells = [short(series.latency(p) * 1e3) if p in told else "" for p in PERCENTILES]
                rows.append((name, what, short(series.rate), *cells))
        return table(title, ("", "load", "a second", *(f"p{p} ms" for p in PERCENTILES)), rows)

    def costs(self, title: str, *prefixes: str) -> str:
        """Microseconds of processor time a job, by part."""
        chosen = {k: s for k, s in self._series.items() if k[1].startswith(prefixes)}
        shown = [p for p in PARTS if any(series.used(p) >= 0.5 for series in chosen.values())]
        rows = [
            (name, what, *map(_cost, [series.used(p) for p in shown]), short(series.used(*PARTS)))
            for (name, what), series in chosen.items()
        ]
        return table(title, ("µs of processor time a job", "", *shown, "all"), rows)

    def memories(self, title: str) -> str:
        shown = [p for p in PARTS if any(p in peaks for peaks in self._memory.values())]
        rows = [
            (name, *(short(peaks[p]) if p in peaks else "" for p in shown))
            for name, peaks in self._memory.items()
        ]
        return table(title, ("peak MiB, all processes", *shown), rows)


def _cost(microseconds: float) -> str:
    return short(microseconds) if microseconds >= 0.5 else ""
