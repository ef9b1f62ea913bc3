"""What people type, read; and the `--wait` that may stand alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from jobkit.cli.arguments import complete_wait
from jobkit.cli.output import clean, coloured
from jobkit.cli.values import parse_duration, parse_until


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("1.5", 1.5), ("500ms", 0.5), ("10m", 600), ("1h30m", 5400), ("2d", 172800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-5", "m", "10x", "5m!", "nan", "inf", "1e12", "10 m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration(text)


def test_until_is_a_time_or_a_duration() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert parse_until("10m", now) == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert parse_until("2026-01-01T02:00:00+01:00", now) == datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert parse_until("2026-01-01T02:00:00Z", now) == datetime(2026, 1, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        (["email", "--wait"], ["email", "--wait=300"]),
        (["email", "--wait", "5"], ["email", "--wait", "5"]),
        (["--wait", "5", "email"], ["--wait", "5", "email"]),
        (["--wait", "email"], ["--wait=300", "email"]),
        (["email", "--wait", "--json"], ["email", "--wait=300", "--json"]),
        (["email", "--wait=7"], ["email", "--wait=7"]),
        (["email", "--", "--wait"], ["email", "--", "--wait"]),
        (["--wait", "--", "5"], ["--wait=300", "--", "5"]),
    ],
)
def test_wait_may_stand_alone(line: list[str], completed: list[str]) -> None:
    assert complete_wait(line) == completed


def test_states_have_colours_and_text_has_no_controls() -> None:
    assert coloured("SUCCEEDED").spans[0].style == "green"
    assert coloured("OPEN", "(by hand)").plain == "OPEN (by hand)"
    assert coloured("STATE_99").plain == "STATE_99"
    assert clean("a\x1b]0;x\x07\nb\x9b") == "a\\x1b]0;x\\x07\nb\\x9b"
