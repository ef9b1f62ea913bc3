"""Redrives and groups of failures as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from selfheal.control.v1 import quarantine_pb2 as wire

from jobkit.cli.output import Cell, clean, coloured, print_details, print_table, time_text

STATE_PREFIX = "REDRIVE_STATE_"


def print_groups(groups: Iterable[wire.FailureGroup]) -> None:
    headings = ("GROUP", "JOBS", "TYPE", "ERROR CODE", "MESSAGE", "FIRST", "LAST", "SUCH AS")
    print_table(headings, map(_group, groups))


def print_redrives(redrives: Iterable[wire.Redrive]) -> None:
    headings = ("REDRIVE ID", "STATE", "STARTED", "PROGRESS", "FILTER", "ACTOR", "REASON")
    print_table(headings, map(_row, redrives))


def print_redrive(redrive: wire.Redrive) -> None:
    print_details(_details(redrive))
    if redrive.types:
        headings = (
            "TYPE",
            "TOTAL",
            "REDRIVEN",
            "SUCCEEDED",
            "FAILED",
            "UNDER WAY",
            "SKIPPED",
            "RATE",
            "NOTE",
        )
        print_table(headings, map(_type, redrive.types))


class ProgressLine:
    """On a terminal one line that changes in its place and leaves in the end; elsewhere a line for each change."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._told = ""

    def tell(self, redrive: wire.Redrive) -> None:
        line = clean(f"redrive {redrive.redrive_id}: {_progress(redrive.progress)}{_pace(redrive)}")
        if line == self._told:
            return
        self._told = line
        self._to.write(f"\r\x1b[K{line}" if self._to.isatty() else f"{line}\n")
        self._to.flush()

    def leave(self) -> None:
        if self._told and self._to.isatty():
            self._to.write("\r\x1b[K")
            self._to.flush()


def _group(group: wire.FailureGroup) -> tuple[Cell, ...]:
    return (
        group.failure_group,
        str(group.count),
        group.job_type,
        group.code,
        group.shape,
        time_text(group, "first_time"),
        time_text(group, "last_time"),
        group.sample_job_ids[0] if group.sample_job_ids else "",
    )


def _row(redrive: wire.Redrive) -> tuple[Cell, ...]:
    return (
        redrive.redrive_id,
        _state(redrive),
        time_text(redrive, "create_time"),
        _progress(redrive.progress),
        redrive.filter,
        redrive.actor,
        redrive.reason,
    )


def _details(redrive: wire.Redrive) -> Iterable[tuple[str, Cell]]:
    yield "redrive", redrive.redrive_id
    yield "state", _state(redrive) if redrive.redrive_id else "not begun"
    yield "filter", redrive.filter or "all that wait for a person"
    yield "rate", "adaptive" if redrive.adaptive else f"{redrive.rate:g} jobs/s of each type"
    yield "actor", redrive.actor
    yield "reason", redrive.reason
    yield "started", time_text(redrive, "create_time")
    yield "finished", time_text(redrive, "finish_time")
    yield "ended by", redrive.ended_by
    yield "because", redrive.end_reason
    yield "progress", _progress(redrive.progress)


def _type(part: wire.RedriveType) -> tuple[Cell, ...]:
    progress = part.progress
    counts = (
        progress.total,
        progress.redriven,
        progress.succeeded,
        progress.failed,
        progress.under_way,
        progress.skipped,
    )
    note = part.stop_reason or ("held" if part.held else "")
    return (part.job_type, *map(str, counts), f"{part.rate:g}/s" if part.rate else "", note)


def _progress(progress: wire.RedriveProgress) -> str:
    parts = [f"{progress.redriven} of {progress.total} sent"]
    for name in ("succeeded", "failed", "cancelled", "under_way", "skipped"):
        count = getattr(progress, name)
        if count:
            parts.append(f"{count} {name.replace('_', ' ').replace('failed', 'failed again')}")
    return ", ".join(parts)


def _pace(redrive: wire.Redrive) -> str:
    rate = sum(part.rate for part in redrive.types)
    held = [part.job_type for part in redrive.types if part.held]
    waits = f" (held: {', '.join(held[:3])}{', …' if len(held) > 3 else ''})" if held else ""
    return (f", at {rate:g}/s" if rate else "") + waits


def _state(redrive: wire.Redrive) -> Cell:
    known = redrive.state in wire.RedriveState.values()
    name = wire.RedriveState.Name(redrive.state).removeprefix(STATE_PREFIX) if known else str(redrive.state)
    return coloured(name)
