"""What one of our jobs costs as things grow: what waits, what is done, types, payloads, workers (`-k cost`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import asyncpg
import pytest

from tests.bench.figures import Report, Span
from tests.bench.peers.arena import Arena
from tests.bench.peers.catalog import SERVERS
from tests.bench.peers.client import Client
from tests.bench.peers.contender import Place
from tests.bench.peers.notes import Note

pytestmark = pytest.mark.timeout(3600)

FEW = 1_000
FLAT = 0.1  # how far the cost may be from that with FEW waiting

# Rows of one job that is done, with ids older than any other.
HISTORY = """INSERT INTO jobs ({columns}) SELECT {values}
             FROM (SELECT * FROM jobs WHERE state = 'SUCCEEDED' LIMIT 1) AS one,
                  generate_series($1::bigint, $2::bigint) AS number"""
HISTORIC_ID = "('00000000-0000-7000-8000-' || lpad(to_hex(number), 12, '0'))::uuid"
CHUNK = 500_000
ORDER = 100_000  # jobs
PART = 500  # jobs: twice the slots


@dataclass(frozen=True, slots=True)
class Case:
    """`waiting` jobs stay in the queue when the last has been counted, `done` rows are there before; a payload of
    `payload` bytes; `share` is the part of the usual number of jobs."""

    name: str
    waiting: int = 0
    done: int = 0
    types: int = 1
    payload: int = 0
    workers: int = 1
    share: float = 1.0


WITH_FEW = Case(f"{FEW:,} waiting", waiting=FEW)
CASES = (
    # Before and after what is compared with it: a machine's pace drifts.
    WITH_FEW,
    Case("100,000 waiting", waiting=100_000),
    WITH_FEW,
    Case("100 types", types=100),
    Case("payload of 0.2 kB", payload=200),
    Case("payload of 10 kB", payload=10_000, share=0.25),
    Case("payload of 200 kB", payload=200_000, share=0.25),
    *(Case(f"{n} worker processes", workers=n) for n in range(2, (os.cpu_count() or 1) + 1)),
)
LARGE = (
    Case("1,000,000 waiting", waiting=1_000_000),
    Case("10,000,000 done", done=10_000_000),
    # Last: so many queues may leave a broker no open file for another connection.
    Case("1,000 types", types=1_000),
)


def test_cost(arena: Arena, scale: Report, large: bool) -> None:
    for number, case in enumerate((*CASES, *(LARGE if large else ()))):
        _measure(arena, scale, case, f"{arena.namespace}.{number}")
    for case in (*CASES, *LARGE):
        if case.waiting > FEW and (large or case in CASES):
            ratio = scale.cost(f"drain, {case.name}") / scale.cost(f"drain, {WITH_FEW.name}")
            verdict = "met" if abs(ratio - 1) <= FLAT else "**MISSED**"
            scale.note(
                f"Cost of a job with {case.name}: {ratio:.2f} x that with {FEW:,} (aim: {1 - FLAT} to {1 + FLAT}; "
                f"{verdict})."
            )


def _measure(arena: Arena, scale: Report, case: Case, prefix: str) -> None:
    """A round is an equal part of one drain. Its types begin with `prefix`, and are nobody else's."""
    each = max(round(arena.sizes.jobs / 4 * case.share), 50)
    total = each * arena.sizes.rounds
    if case.done:
        arena.loop.run(_history(arena.urls["postgres"], case.done))
    told = {"BENCH_TYPES": str(case.types), "BENCH_FILLER": str(case.payload)}
    servers = replace(SERVERS, workers=case.workers)
    with arena.stand(servers, scale) as stand:
        place = Place(stand, arena.urls, prefix, stand.directory / "notes", told)
        door, width = ("one", 32) if case.payload > 1_000 else ("many", 4)
        with servers.open(place) as client:
            client.submit("noop", door, 1, 1)  # types are known, queues are declared
            stand.rate(f"submit, {case.name}", _fill(client, door, total + case.waiting, width))
            if case.waiting:
                stand.rest()  # a backlog has waited for a while
            with servers.working(place, "noop"):
                for part in _parts(place.notes.take(total), each):
                    stand.rate(f"drain, {case.name}", part)


def _fill(client: Client, door: str, total: int, width: int) -> Span:
    """A client is given up when one order takes it minutes."""
    spans: list[Span] = []
    while (left := total - sum(span.jobs for span in spans)) > 0:
        spans.append(client.submit("noop", door, min(left, ORDER), width))
    return Span(sum(span.jobs for span in spans), spans[0].began, spans[-1].ended)


def _parts(notes: list[Note], each: int) -> Iterator[Span]:
    """Equal ones, each from the end of the one before it; a single one where so few jobs end nearly at once."""
    began = notes[0].began
    each = each if each >= PART else len(notes)
    for last in range(each - 1, len(notes), each):
        yield Span(each, began, notes[last].ended)
        began = notes[last].ended


async def _history(postgres_url: str, total: int) -> None:
    """Copies of a job that is done."""
    connection = await asyncpg.connect(postgres_url)
    try:
        rows = await connection.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs' AND is_generated = 'NEVER'"
        )
        names = [row["column_name"] for row in rows]
        values = [HISTORIC_ID if name == "job_id" else f"one.{name}" for name in names]
        statement = HISTORY.format(columns=", ".join(names), values=", ".join(values))
        for first in range(0, total, CHUNK):
            await connection.execute(statement, first, min(first + CHUNK, total) - 1)
        await connection.execute("ANALYZE jobs")
        # Gigabytes that are still to be written would be waited for by everybody's next sync, the broker's too.
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
