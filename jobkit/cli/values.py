"""What people type, read into values. Everything here raises typer.BadParameter, which is exit code 2."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_TIME = re.compile(r"\d{4}-")
_LONGEST = 100 * 366 * 86400.0


def parse_duration(text: str) -> timedelta:
    """`30` (seconds), `10m`, `1h30m`, `500ms`; above zero."""
    seconds = _seconds(text.strip())
    if not 0 < seconds <= _LONGEST:
        raise typer.BadParameter(f"{text!r} is not a duration such as 30, 45s, 10m or 1h30m")
    return timedelta(seconds=seconds)


def _seconds(text: str) -> float:
    try:
        plain = float(text)
    except ValueError:
        parts = _PART.findall(text)
        whole = "".join(number + unit for number, unit in parts) == text
        return sum(float(number) * UNITS[unit] for number, unit in parts) if whole else math.nan
    return plain


def parse_until(text: str, now: datetime) -> datetime:
    """A duration from `now`, or an RFC 3339 time with its offset; must lie ahead."""
    until = _time(text) if _TIME.match(text) else now + parse_duration(text)
    if until <= now:
        raise typer.BadParameter(f"{text!r} is not in the future")
    return until.astimezone(UTC)


def parse_since(text: str, now: datetime) -> datetime:
    """A duration before `now`, or an RFC 3339 time with its offset."""
    since = _time(text) if _TIME.match(text) else now - parse_duration(text)
    return since.astimezone(UTC)


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a time: {error}") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no offset; write {text}Z for UTC")
    return moment


def parse_labels(pairs: Sequence[str]) -> dict[str, str]:
    """`key=value`, each key once."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not key=value")
        if key in labels:
            raise typer.BadParameter(f"{key!r} is given twice")
        labels[key] = value
    return labels


def read_payload(text: str) -> dict[str, object]:
    """A JSON object: as it is, from stdin (`-`) or from a file (`@path`)."""
    try:
        value = json.loads(_payload_text(text), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read the payload: {error}") from None
    except RecursionError:
        raise typer.BadParameter("cannot read the payload: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("the payload must be a JSON object")
    return value


def _payload_text(text: str) -> str:
    if text == "-":
        return sys.stdin.read()
    return Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
