"""The Prometheus figures of several processes as those of one, told apart by the label `process`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


class Together(Collector):
    """A collector of what was scraped: pairs of a process and its exposition in the classic text format."""

    def __init__(self, told: Sequence[tuple[str, str]]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        """One family for each that any process has; families that follow one another, as the format wants."""
        families: dict[str, Metric] = {}
        for process, text in self._told:
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                whole.samples += _labelled(family.samples, process)
        yield from families.values()


def _labelled(samples: Iterable[Sample], process: str) -> list[Sample]:
    return [sample._replace(labels={**sample.labels, "process": process}) for sample in samples]
