"""Job types as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from selfheal.control.v1 import job_type_pb2

from jobkit.cli.output import Cell, print_details, print_table, time_text


def print_types(types: Iterable[job_type_pb2.JobType]) -> None:
    headings = ("JOB TYPE", "LIMIT", "PAUSED UNTIL", "WAITING", "HELD", "RUNNING", "SERVED")
    print_table(headings, map(_row, types))


def print_type(one: job_type_pb2.JobType) -> None:
    print_details(_details(one))


def _row(one: job_type_pb2.JobType) -> tuple[Cell, ...]:
    counts = (str(n) for n in (one.waiting_jobs, one.held_jobs, one.running_jobs))
    return (one.job_type, _limit(one), _paused(one), *counts, "yes" if one.served else "no")


def _details(one: job_type_pb2.JobType) -> Iterable[tuple[str, Cell]]:
    yield "job type", one.job_type
    yield "limit", _limit(one)
    yield "paused until", _paused(one)
    if one.HasField("pause"):
        yield "paused since", time_text(one.pause, "pause_time")
        yield "paused by", one.pause.actor
        yield "reason", one.pause.reason
    yield "waiting", str(one.waiting_jobs)
    yield "held", str(one.held_jobs)
    yield "running", str(one.running_jobs)
    yield "served", "yes" if one.served else "no"


def _limit(one: job_type_pb2.JobType) -> str:
    return str(one.concurrency) if one.HasField("concurrency") else "none"


def _paused(one: job_type_pb2.JobType) -> Cell:
    if not one.HasField("pause"):
        return ""
    return time_text(one.pause, "until") if one.pause.HasField("until") else "resumed"
