"""What became of every accepted job, read from the database itself and from what the handlers wrote down."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from tests.faults.load import Accepted, Load

FINAL = frozenset({"SUCCEEDED", "CANCELLED", "DISCARDED", "QUARANTINED"})
# As in fault_handlers.py, which is imported by workers only.
FAILS_FIRST = "012"
COLUMNS = "job_id, job_type, state, attempts, deliveries, losses, created_at, finished_at"


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the database; times in milliseconds."""

    job_id: str
    job_type: str
    state: str
    attempts: int
    deliveries: int
    losses: int
    created_at: int
    finished_at: int | None


@dataclass(slots=True)
class Run:
    """One start of a handler; times of CLOCK_MONOTONIC in nanoseconds. `end` is None for a run that was cut off, and
    `seen` is when its process was last known to live."""

    job_id: str
    delivery: int
    start: int
    pid: int
    attempt: int
    end: int | None = None
    outcome: str = ""
    seen: int = 0

    @property
    def over(self) -> int:
        return self.seen if self.end is None else self.end


@dataclass(slots=True)
class Figures:
    """What a fault cost."""

    accepted: int = 0
    done: int = 0
    reruns: int = 0  # jobs whose handler was started more often than their attempts say
    repeated_successes: int = 0  # jobs whose handler succeeded more than once
    overlaps: int = 0  # jobs of which two runs overlapped in time
    slowest_seconds: float = 0.0  # from submit to finish
    seconds_to_drain: float = 0.0
    unaccepted: int = 0  # rows that exist though no answer said so
    refusals: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Tally:
    """The file in which the handlers write down their runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> list[Run]:
        """All runs so far, in the order of their starts."""
        runs: dict[tuple[str, int, int], Run] = {}
        alive: dict[int, int] = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in lines:
            kind, job_id, delivery, at, pid, last = line.split()
            alive[int(pid)] = max(alive.get(int(pid), 0), int(at))
            key = (job_id, int(delivery), int(pid))
            if kind == "S":
                assert key not in runs, f"one delivery was run twice by one process: {line}"
                runs[key] = Run(job_id, int(delivery), int(at), int(pid), int(last))
            else:
                runs[key].end, runs[key].outcome = int(at), last
        for run in runs.values():
            run.seen = alive[run.pid]
        return sorted(runs.values(), key=lambda run: run.start)

    def by_job(self) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs():
            found[run.job_id].append(run)
        return found


async def everything_done(
    load: Load,
    *,
    timeout: float = 120.0,
    final: Mapping[str, str] | None = None,
    allow_overlap: bool = False,
    exact_attempts: bool = True,
) -> Figures:
    """Stop the load, wait until every job in the database is at its end, and look at each.

    `final` names the state for handlers whose jobs do not end SUCCEEDED. `allow_overlap` is for faults that freeze a
    worker while its handler runs on. `exact_attempts=False` for faults that make good handlers fail (deadlines).
    Raises AssertionError that lists what is wrong.
    """
    await load.stop()
    began = time.monotonic()
    url = load.fleet.environ.get("DATABASE_URL") or f"sqlite:///{load.fleet.directory}/data/selfheal.db"
    await _drained(url, timeout)
    rows = {row.job_id: row for row in await read_rows(url)}
    tally = tally_of(load)
    problems = [
        *_of_rows(load, rows, final or {}, exact_attempts),
        *_of_runs(tally.by_job(), rows, allow_overlap),
    ]
    problems += load.refusals.contradictions + load.refusals.without_retry_info
    figures = _figures(load, rows, tally.by_job())
    figures.seconds_to_drain = round(time.monotonic() - began, 1)
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems[:20]) + f"\n{figures}"
    return figures


def runs_needed(accepted: Accepted) -> int:
    """Runs that a job needs when nothing goes wrong, and so the attempts that it must end with."""
    return 2 if accepted.name == "flaky" and accepted.job_id[-1] in FAILS_FIRST else 1


def tally_of(load: Load) -> Tally:
    return Tally(Path(load.fleet.environ["FAULT_TALLY"]))


async def read_rows(url: str, where: str = "TRUE") -> list[Row]:
    """Jobs, straight from the database; `where` is SQL of a test's own."""
    statement = f"SELECT {COLUMNS} FROM jobs WHERE {where}"
    return [Row(str(uuid.UUID(str(first))), *rest) for first, *rest in await query(url, statement)]


async def query(url: str, statement: str) -> Sequence[Sequence[Any]]:
    """The rows of a statement on PostgreSQL or a SQLite file."""
    if url.startswith("sqlite"):
        path = (
            unquote(urlsplit(url).path)[1:]
            if url.startswith("sqlite:////")
            else url.removeprefix("sqlite:///")
        )
        return await asyncio.to_thread(_query_sqlite, path, statement)
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def _query_sqlite(path: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(statement).fetchall()


async def _drained(url: str, timeout: float) -> None:
    """Until no job waits or runs."""
    final = ", ".join(f"'{state}'" for state in sorted(FINAL))
    count = f"SELECT state, count(*) FROM jobs WHERE state NOT IN ({final}) GROUP BY state"
    deadline = time.monotonic() + timeout
    while left := await query(url, count):
        if time.monotonic() > deadline:
            stuck = await read_rows(url, f"state NOT IN ({final}) ORDER BY created_at LIMIT 10")
            raise AssertionError(f"after {timeout:g} s there are still {left}, such as {stuck}")
        await asyncio.sleep(0.2)


def _of_rows(
    load: Load, rows: Mapping[str, Row], final: Mapping[str, str], exact_attempts: bool
) -> Iterable[str]:
    for accepted in load.accepted.values():
        row = rows.get(accepted.job_id)
        if row is None:
            yield f"LOST: {accepted}"
            continue
        expected = final.get(accepted.name, "SUCCEEDED")
        if row.state != expected:
            yield f"{accepted.name} should be {expected}: {row}"
        attempts = runs_needed(accepted)
        if exact_attempts and row.state == "SUCCEEDED" and row.attempts != attempts:
            yield f"{accepted.name} should have {attempts} attempts: {row}"
        if row.deliveries < row.attempts:
            yield f"more attempts than deliveries: {row}"


def _of_runs(runs: Mapping[str, list[Run]], rows: Mapping[str, Row], allow_overlap: bool) -> Iterable[str]:
    for job_id, mine in runs.items():
        row = rows.get(job_id)
        if row is None:
            yield f"a job ran that is in no row: {mine}"
            continue
        twice = [number for number, times in Counter(run.delivery for run in mine).items() if times > 1]
        if twice:
            yield f"delivery {twice} of {job_id} ran twice: the fence is broken: {mine}"
        if max(run.delivery for run in mine) > row.deliveries:
            yield f"a run with a delivery that no claim gave: {row} {mine}"
        if not allow_overlap and overlapping(mine):
            yield f"two runs of {job_id} at once: {mine}"


def overlapping(runs: Sequence[Run]) -> bool:
    """Whether a run started while an earlier one was still known to be under way."""
    return any(later.start < run.over for n, run in enumerate(runs) for later in runs[n + 1 :])


def _figures(load: Load, rows: Mapping[str, Row], runs: Mapping[str, list[Run]]) -> Figures:
    known = {accepted.job_id for accepted in load.accepted.values()}
    mine = [rows[job_id] for job_id in known if job_id in rows]
    return Figures(
        accepted=len(load.accepted),
        done=sum(row.state in FINAL for row in mine),
        reruns=sum(len(starts) > rows[job_id].attempts for job_id, starts in runs.items() if job_id in rows),
        repeated_successes=sum(sum(run.outcome == "ok" for run in starts) > 1 for starts in runs.values()),
        overlaps=sum(map(overlapping, runs.values())),
        slowest_seconds=max(((row.finished_at or 0) - row.created_at for row in mine), default=0) / 1000,
        unaccepted=len(rows.keys() - known),
        refusals=dict(load.refusals.codes),
    )
