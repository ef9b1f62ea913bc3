"""Every hot query is served by an index: no plan may read the whole table of jobs.

What is explained is what the adapter really sends, caught on its way to the driver.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa

from jobkit.adapters.sql import schema
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.retention import SqlRetention
from jobkit.domain.errors import NotFound, OutOfRange
from jobkit.domain.failure import group_name
from jobkit.domain.filter import JobFilter, PageToken, parse_filter
from jobkit.domain.job import JobError, QuarantineReason
from jobkit.domain.retry import Complete, Decision, Isolate, Retry
from jobkit.ports import Ages, GroupToken, Held, Lease, Settlement
from tests.contract.store_contract import LEASE, SESSION, Store, new_id
from tests.integration.plan_wire import Sent, Wire, plans
from tests.integration.plan_work import record, redriving

JOBS = 50_000
ENTRIES = 20_000  # in the ledger, and incidents
T0 = 1_760_000_000_000
# Nine in ten are finished; the rest waits, runs or is quarantined, over 40 types.
FILL = f"""
INSERT INTO jobs (job_id, job_type, state, due_at, session_id, payload, request_id, error_code,
                  quarantine_reason, quarantined_at, failure_group, lease_until, claim_id, worker_id, started_at,
                  deliveries, created_at, updated_at)
SELECT
    (lpad(to_hex({T0} + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
    'type' || n % 40,
    state,
    {T0} + n,
    CASE WHEN n % 200 <> 1 THEN '00000000-0000-0000-0000-00000000000a'::uuid END,
    convert_to(repeat('x', 200), 'UTF8'),
    CASE WHEN n % 10 = 0 THEN 'r' || n END,
    CASE WHEN n % 97 = 0 THEN 'API_TIMEOUT' END,
    CASE WHEN state = 'QUARANTINED' THEN 'RETRIES_EXHAUSTED' END,
    CASE WHEN state = 'QUARANTINED' THEN {T0} END,
    CASE WHEN state = 'QUARANTINED' AND n % 300 <> 6 THEN n % 11 END,
    CASE WHEN state = 'RUNNING' THEN {T0} END,
    CASE WHEN state = 'RUNNING' THEN gen_random_uuid() END,
    'w', CASE WHEN state IN ('RUNNING', 'SUCCEEDED') THEN {T0} END,
    1, {T0} + n, {T0} + n
FROM (
    SELECT n, (CASE n % 100 WHEN 1 THEN 'PENDING' WHEN 2 THEN 'QUEUED' WHEN 3 THEN 'QUEUED'
        WHEN 4 THEN 'RETRYING' WHEN 5 THEN 'RUNNING' WHEN 6 THEN 'QUARANTINED' WHEN 7 THEN 'QUEUED'
        ELSE 'SUCCEEDED' END) AS state
    FROM generate_series(1, {JOBS}) AS n
) AS numbered;
INSERT INTO job_labels SELECT 'tenant', 't' || hashtext(job_id::text) % 100, job_id FROM jobs;
INSERT INTO request_keys SELECT request_id, job_id, '' FROM jobs WHERE request_id IS NOT NULL;
INSERT INTO job_types (job_type, created_at, hold_number, held_reason)
SELECT 'type' || n, 0, 1, CASE WHEN n = 7 THEN 'BREAKER_OPEN' END FROM generate_series(0, 39) AS n;
INSERT INTO breaker_transitions (revision, breaker, generation, scope, from_state, to_state, at, cause, actor, reason,
                                 error_code)
SELECT n, 'type' || n % 40, n, CASE WHEN n % 3 = 0 THEN 'w' || n % 7 ELSE '' END, 'CLOSED', 'OPEN', {T0} + n,
    'EVIDENCE', '', '', ''
FROM generate_series(1, {ENTRIES}) AS n;
INSERT INTO incidents (incident_id, breaker, opened_at, noted_at, cause, actor, reason, error_code, closed_at,
                       close_revision, attempts_saved, attempts_counted)
SELECT n, CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'type' || n % 40 END, {T0} + n, {T0} + n, 'EVIDENCE', '', '', '',
    CASE WHEN n <= {ENTRIES} - 40 THEN {T0} + n END, CASE WHEN n <= {ENTRIES} - 40 THEN n + 1 END,
    CASE WHEN n % 5000 = 0 THEN 2 ELSE 1 END, 1
FROM generate_series(1, {ENTRIES}) AS n;
INSERT INTO counters VALUES ('ledger', {ENTRIES}), ('ledger_tallied', {ENTRIES} - 10);
"""


def job(n: int) -> UUID:
    """The id of the `n`-th job as FILL makes it."""
    return UUID(f"{T0 + n:012x}70008000{n:012x}")


@pytest.fixture(scope="module")
def filled_url(_postgres_server: str) -> Iterator[str]:
    """A database with 50,000 jobs for all tests of this module, which change little in it."""
    name = f"selfheal_test_{new_id().hex[-12:]}"
    url = urlsplit(_postgres_server)._replace(path=f"/{name}").geturl()

    async def run(on: str, *statements: str) -> None:
        connection = await asyncpg.connect(on)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def fill() -> None:
        await run(_postgres_server, f'CREATE DATABASE "{name}" TEMPLATE template0')
        database = Database(url)
        await schema.migrate(database)
        await database.close()
        await run(url, "SET synchronous_commit = off", FILL, "VACUUM ANALYZE")

    asyncio.run(fill())
    yield url
    asyncio.run(run(_postgres_server, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def store(filled_url: str) -> AsyncIterator[Store]:
    database = Database(filled_url)
    yield Store(database)
    await database.close()


def page(text: str, size: int = 50, after: PageToken | None = None) -> Callable[[Store], Awaitable[Any]]:
    return lambda store: store.reader.page(parse_filter(text), size, after)


def settle_all(store: Store) -> Awaitable[Any]:
    error = JobError("API_TIMEOUT", "")
    decisions: list[Decision] = [
        Complete(b"{}"),
        Retry(timedelta(), error),
        Isolate(QuarantineReason.POISON, error),
    ]
    return store.work.settle(
        [Settlement(Held(job(100 * n + 5), 1), d, ()) for n, d in enumerate(decisions, 300)]
    )


DEEP = PageToken(job(JOBS // 2), 0)
QUARANTINED = (job(100 * n + 6) for n in count(12))
SOME = [job(n) for n in range(1, 200)]
TYPES = [f"type{n}" for n in range(40)]
LONG_AGO = Ages(finished_ms=T0, quarantined_ms=T0)  # nothing is that old


QUERIES: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "claim": lambda s: s.work.claim(SOME, claim_id=new_id(), worker_id="w", lease=LEASE),
    "settle": settle_all,
    "renew": lambda s: s.work.renew([Held(job(100 * n + 5), 1) for n in range(100)], lease=LEASE),
    "progress": lambda s: s.work.progress([(Held(job(305), 1), 1, 2)]),
    "get": lambda s: s.reader.get(SOME),
    "cancel": lambda s: s.steering.cancel(job(1201)),
    "retry": lambda s: s.steering.retry(next(QUARANTINED), None, SESSION),
    "count_waiting_of": lambda s: s.reader.count_waiting_of(["type3"], 1000),
    "page of all": page(""),
    "page of all, deep": page("", after=DEEP),
    "page of a type": page("job_type = type3"),
    "page of a type, deep": page("job_type = type3", after=DEEP),
    "page by a rare state": page("state = PENDING"),
    "page by a common state": page("state = SUCCEEDED", after=DEEP),
    "page by a state that holds add to": page("state = QUARANTINED"),
    "page by state and type": page("state = QUARANTINED AND job_type = type6"),
    "page by a stored reason": page("quarantine.reason = RETRIES_EXHAUSTED"),
    "page by a derived reason": page("quarantine.reason = BREAKER_OPEN"),
    "page by a label": page("labels.tenant = t7"),
    "page by a label, deep": page("labels.tenant = t7", after=DEEP),
    "page by a label and a state": page("labels.tenant = t7 AND state = QUARANTINED"),
    "page by two labels": page("labels.tenant = t7 AND labels.colour = red"),
    "page by error code": page("error.code = API_TIMEOUT"),
    "page by request": page("request_id = r500"),
    "page by time": page('create_time > "2025-10-09T08:54:00Z" AND create_time < "2025-10-09T08:54:10Z"'),
    "orphan": lambda s: s.sessions.orphan(SESSION, SOME),
    "take_overdue": lambda s: s.recovery.take_overdue(SESSION, 100),
    "take_lost": lambda s: s.recovery.take_lost(SESSION, "type3", T0 + 10_000, 100),
    "take_orphans": lambda s: s.recovery.take_orphans(new_id(), timedelta(), 100),
    "oldest_waiting": lambda s: s.recovery.oldest_waiting(),
    "expired": lambda s: s.recovery.expired(100),
    "rescue": lambda s: s.recovery.rescue(
        SESSION, [Lease(Held(job(905), 1), T0), Lease(Held(job(1005), 1), T0)]
    ),
    "waiting_pages": lambda s: anext(s.recovery.waiting_pages(500)),
    "count_waiting": lambda s: s.recovery.count_waiting(),
    "ledger heads": lambda s: s.ledger.heads(TYPES),
    "ledger of some": lambda s: s.ledger.latest(TYPES[:5]),
    "ledger of all": lambda s: s.ledger.latest(),
    "record": record,
    "holds of an earlier revision": page("state = QUARANTINED", after=PageToken(job(JOBS // 2), 19_000)),
    "history": lambda s: s.history.page(None, 50, 10_000),
    "history of one": lambda s: s.history.page("type3", 50, 10_000),
    "watch": lambda s: s.history.after(19_000, None, 500),
    "watch of one": lambda s: s.history.after(10_000, "type3", 50),
    "incidents": lambda s: s.history.incidents(None, open_only=False, size=50, before=10_000),
    "incidents of one": lambda s: s.history.incidents("rare", open_only=False, size=50, before=10_000),
    "open incidents": lambda s: s.history.incidents(None, open_only=True, size=50, before=None),
    "incident": lambda s: s.history.incident(10_000, 100),
    "weigh": lambda s: s.sums.weigh(100),
    "tally": lambda s: s.sums.tally(100),
    "purge_ledger": lambda s: SqlRetention(s.database).purge_ledger(0, LONG_AGO, 100),
    "purge_records": lambda s: SqlRetention(s.database).purge_records(LONG_AGO, 100),
    "page by failure group": page(f"failure_group = {group_name(7)}"),
    "quarantined, counted": lambda s: s.quarantine.count(JobFilter(), 1_000),
    "quarantined of a type, counted": lambda s: s.quarantine.count(parse_filter("job_type = type6"), 1_000),
    "discard": lambda s: s.quarantine.discard("type6", parse_filter("error.code = X"), job(1), 100),
    "groups": lambda s: s.quarantine.groups(JobFilter(), 50, None),
    "groups, the next page": lambda s: s.quarantine.groups(JobFilter(), 50, GroupToken(1, 7)),
    "groups of a type": lambda s: s.quarantine.groups(parse_filter("job_type = type6"), 50, None),
    "group_new": lambda s: s.quarantine.group_new(5),
    "redrive": redriving,
}
LEDGER = ("breaker_transitions", "incidents")
BIG = {"jobs", "job_labels", "request_keys", *LEDGER}


@pytest.mark.postgres
@pytest.mark.parametrize("name", QUERIES)
async def test_a_hot_query_is_served_by_an_index(store: Store, filled_url: str, name: str) -> None:
    if name == "take_orphans":
        await store.sessions.beat(SESSION, "jobapi", job(JOBS - 500))
    wire = Wire(store.database)
    with wire.caught() as caught:
        await QUERIES[name](store)
    about_jobs = [sent for sent in caught if any(table in sent.text for table in BIG)]
    assert about_jobs
    indexes: set[str] = set()
    for sent in about_jobs:
        for generic in (False, True):
            found = await plans(filled_url, sent, generic=generic)
            read = [n for n in found if n["Node Type"] == "Seq Scan" and n["Relation Name"] in BIG]
            assert not read, f"{'generic' if generic else 'custom'} plan of: {sent.text}"
            indexes |= {n["Index Name"] for n in found if "Index Name" in n}
    assert indexes & {n for table in BIG for n in EXPECTED[table]}, indexes


EXPECTED = {
    "jobs": {
        "jobs_pkey",
        "jobs_type_state_idx",
        "jobs_waiting_idx",
        "jobs_overdue_idx",
        "jobs_lease_idx",
        "jobs_error_idx",
        "jobs_reason_idx",
        "jobs_group_idx",
    },
    "job_labels": {"job_labels_pkey"},
    "request_keys": {"request_keys_pkey"},
    "breaker_transitions": {
        "breaker_transitions_pkey",
        "breaker_transitions_breaker_scope_generation_key",
        "breaker_transitions_breaker_revision_idx",
    },
    "incidents": {
        "incidents_pkey",
        "incidents_breaker_idx",
        "incidents_open_idx",
        "incidents_closed_idx",
        "incidents_uncounted_idx",
    },
}


# The keys of rows that are at hand: no other index is worth a look.
KEYED = ("claim", "settle", "renew", "progress", "rescue")
SPARSE = f"""
INSERT INTO jobs (job_id, job_type, state, due_at, payload, claim_id, lease_until, deliveries, created_at, updated_at)
SELECT (lpad(to_hex({T0} + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid, 'type0',
    CASE n % 2500 WHEN 1 THEN 'QUEUED' WHEN 5 THEN 'RUNNING' ELSE 'SUCCEEDED' END, {T0}, '', gen_random_uuid(),
    {T0}, 1, 0, 0
FROM generate_series(1, 5000) AS n;
"""


@pytest.mark.postgres
async def test_rows_are_found_by_their_keys_though_statistics_know_of_few_in_their_state(
    postgres_url: str,
) -> None:
    """A partial index with a handful of rows looks cheaper than the keys; soon it holds the whole backlog."""
    database = Database(postgres_url)
    await schema.migrate(database)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(SPARSE)
    await connection.execute("ANALYZE jobs")
    await connection.close()
    store, wire = Store(database), Wire(database)
    for name in KEYED:
        with wire.caught() as caught:
            await QUERIES[name](store)
        for sent in caught:
            if "UPDATE jobs" not in sent.text and "FOR UPDATE" not in sent.text:
                continue
            for generic in (False, True):
                found = await plans(postgres_url, sent, generic=generic)
                used = {n["Index Name"] for n in found if n.get("Index Name", "").startswith("jobs_")}
                assert used == {"jobs_pkey"}, f"{name}: {sent.text}"
    await database.close()


@pytest.mark.postgres
async def test_what_was_prepared_on_an_empty_table_does_not_read_all_of_it_later(postgres_url: str) -> None:
    """A worker starts on an empty table, and nobody analyzes it: after five executions a plan stays as it is."""
    database = Database(postgres_url)
    await schema.migrate(database)
    store = Store(database)
    connection = await asyncpg.connect(postgres_url)
    for begins in (True, False):
        for _ in range(10):
            for name in KEYED:
                await QUERIES[name](store)
        if begins:
            await connection.execute(SPARSE)
    await database.close()  # a connection tells what it has read when it ends, at the latest
    read = await connection.fetchval("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'jobs'")
    entries = await connection.fetch("SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes")
    assert read == 0
    assert {row[0] for row in entries if row[0].startswith("jobs_") and row[1]} == {"jobs_pkey"}
    await connection.close()


@pytest.mark.postgres
async def test_every_index_is_used_and_statements_are_compiled_once(store: Store, filled_url: str) -> None:
    """An index that no query uses only costs; a statement that misses the compiled cache costs each time."""
    wire = Wire(store.database)
    used: set[str] = set()
    for query in QUERIES.values():
        with wire.caught() as caught:
            await query(store)
        for sent in list(caught):
            used |= {n.get("Index Name", "") for n in await plans(filled_url, sent, generic=False)}
    assert set().union(*EXPECTED.values()) <= used
    misses: list[str] = []

    def missed(_c: Any, _cursor: Any, text: str, _values: Any, context: Any, _many: bool) -> None:
        if context.cache_hit.name == "CACHE_MISS":
            misses.append(text)

    sa.event.listen(store.database._writer.sync_engine, "before_cursor_execute", missed)
    for query in QUERIES.values():
        await query(store)
    assert misses == []


# A whole table, or the whole of an index, read from end to end.
SCANS = re.compile(rf"SCAN (jobs|{'|'.join(LEDGER)}|earlier|newer)\b")


async def test_sqlite_serves_them_by_an_index_too(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    await schema.migrate(database)
    store = Store(database)
    await store.submit(labels={"tenant": "t7"})
    await store.sessions.beat(SESSION, "jobapi", None)
    sent: list[Sent] = []

    def catch(_c: Any, _cursor: Any, text: str, values: Any, _context: Any, many: bool) -> None:
        if text.startswith(("SELECT", "UPDATE", "DELETE")):
            sent.append(Sent(text, tuple(values[0] if many else values)))

    for engine in (database._writer, database._reader):
        sa.event.listen(engine.sync_engine, "before_cursor_execute", catch)

    async def explain(connection: Any) -> list[str]:
        return [
            row.detail
            for item in list(sent)
            for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {item.text}", item.values)
        ]

    scans: set[str] = set()
    for name, query in QUERIES.items():
        sent.clear()
        with suppress(NotFound, OutOfRange):
            await query(store)
        scans |= {f"{name}: {line}" for line in await database.read(explain) if SCANS.search(line)}
    await database.close()
    # These are about all rows of a kind, and read along the index of just that kind.
    assert scans == {
        "page of all: SCAN jobs USING COVERING INDEX sqlite_autoindex_jobs_1",
        "waiting_pages: SCAN jobs USING INDEX jobs_lease_idx",
        "count_waiting: SCAN jobs USING INDEX jobs_lease_idx",
        "count_waiting: SCAN jobs USING INDEX jobs_waiting_idx",
        "open incidents: SCAN incidents USING INDEX incidents_open_idx",
        "weigh: SCAN incidents USING INDEX incidents_open_idx",
        "tally: SCAN incidents USING INDEX incidents_uncounted_idx",
    }
