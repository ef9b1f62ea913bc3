"""`selfheal dev` on its embedded default: submit, and the drain of a backlog that waited for a restart."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from tests.bench import bare, load
from tests.bench.figures import Report, Span
from tests.bench.stand import Sizes, Stand

pytestmark = pytest.mark.timeout(900)

PATIENCE = 120.0
INSERTS = "unbatched SQLite inserts"
PAIRS = "unbatched SQLite claim and settle"
SPAN = (
    "SELECT count(*), min(started_at), max(finished_at) FROM jobs WHERE job_type = ? AND state = 'SUCCEEDED'"
)


def test_dev(loop: asyncio.Runner, report: Report, sizes: Sizes) -> None:
    with Stand({}, {}, report, sizes) as stand:
        for number in range(sizes.rounds):
            inserted, settled = bare.sqlite_rows(stand.directory / f"bare-{number}.db", sizes.lone)
            stand.rate(INSERTS, inserted)
            stand.rate(PAIRS, settled)
            data, job_type = stand.directory / f"data-{number}", f"bench.{number}"
            idle = stand.start("dev", "--data", str(data), SIMULATE="0")  # nobody handles the type
            address = stand.ports.grpc("jobapi")
            span = loop.run(load.submit_singly(address, job_type, sizes.singly, 32))
            stand.rate("selfheal dev, SubmitJob, 32 in flight", span, INSERTS)
            span = loop.run(load.submit_batches(address, job_type, sizes.jobs))
            stand.rate("selfheal dev, BatchSubmitJobs", span, INSERTS)
            stand.stop(idle)
            dev = stand.start("dev", "--data", str(data))
            stand.rate("selfheal dev, drain", _drained(data, job_type, sizes.jobs), PAIRS)
            stand.stop(dev)


def _drained(data: Path, job_type: str, total: int) -> Span:
    """Until all have succeeded; by another connection, which never holds up the writer."""
    deadline = time.monotonic() + PATIENCE
    database = sqlite3.connect(f"file:{data / 'selfheal.db'}?mode=ro", uri=True)
    try:
        while True:
            done, began, ended = database.execute(SPAN, (job_type,)).fetchone()
            if done >= total:
                return Span(done, began / 1000, ended / 1000)
            assert time.monotonic() < deadline, f"{done} of {total} jobs have ended"
            time.sleep(0.25)
    finally:
        database.close()
