"""The soak itself, for half a minute: every accepted job is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kit import Servers
from tests.faults.record import BEGIN, END, write_record
from tests.faults.soak import Options, soak, told

# The tests beside this one strike each fault by itself.
SHORT = Options(seconds=40.0, rate=150.0, pause=(0.5, 2.0), seed=3, drain_seconds=120.0)


@pytest.mark.timeout(300)
async def test_a_short_soak_loses_nothing(own_servers: Servers, tmp_path: Path) -> None:
    report = await soak(own_servers, tmp_path, SHORT)
    print(told(report))
    assert report.problems == ""
    assert report.figures.accepted == report.figures.done > 300
    assert sum(report.faults.values()) >= 2
    assert report.memory.keys() == {"controlplane", "jobapi", "worker"}
    assert report.json["lost"] == 0


def test_the_record_goes_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for text in ("new", "newer"):
        write_record(text, page)
        assert page.read_text() == f"before\n{BEGIN}\n{text}\n{END}\nafter\n"
    page.write_text("none")
    with pytest.raises(ValueError, match="no markers"):
        write_record("text", page)
