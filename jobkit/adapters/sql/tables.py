"""The schema, once for PostgreSQL and SQLite. `migrations/` builds it; a test compares the two.

Times are BIGINT milliseconds since the epoch in *database* time, so that both databases compare them alike and no
session time zone matters. Payloads and results are bytes, never jsonb: one `\\u0000` would fail its whole batch.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)

Millis = sa.BigInteger

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.Uuid, primary_key=True),
    sa.Column("job_type", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("due_at", Millis, nullable=False),
    # Who is answerable for the token: NULL while nobody is, and the overdue reconciler takes it.
    sa.Column("session_id", sa.Uuid),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("labels", sa.LargeBinary),
    sa.Column("request_id", sa.String(128)),
    sa.Column("max_attempts", sa.Integer),
    sa.Column("attempt_timeout_ms", Millis),
    sa.Column("traceparent", sa.String(128)),
    sa.Column("tracestate", sa.String(512)),
    sa.Column("baggage", sa.String(8192)),
    # Counters that are never mixed (design: attempts, deliveries, holds, lost).
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempts_base", sa.Integer, nullable=False, server_default="0"),
    sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("holds", sa.Integer, nullable=False, server_default="0"),
    # The type's hold number when the job was queued: the claim adds the difference to `holds`.
    sa.Column("hold_mark", sa.Integer, nullable=False, server_default="0"),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
    # Whether the live claim runs with nothing beside it in its process, and the losses of such claims: only they
    # convict a job as poison.
    sa.Column("alone", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("losses_alone", sa.Integer, nullable=False, server_default="0"),
    # The claim. The fence is `deliveries`; `settled_delivery` tells a repeated settle from a lost claim.
    sa.Column("claim_id", sa.Uuid),
    sa.Column("worker_id", sa.String(128)),
    sa.Column("lease_until", Millis),
    sa.Column("settled_delivery", sa.Integer),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("progress_processed", sa.BigInteger),
    sa.Column("progress_total", sa.BigInteger),
    sa.Column("result", sa.LargeBinary),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.Column("error_retryable", sa.Boolean),
    sa.Column("quarantine_reason", sa.String(32)),
    sa.Column("quarantined_at", Millis),
    # Failed attempts, newest last, bounded; a success is read off the row itself.
    sa.Column("history", sa.LargeBinary),
    sa.Column("created_at", Millis, nullable=False),
    sa.Column("updated_at", Millis, nullable=False),
    sa.Column("started_at", Millis),
    sa.Column("finished_at", Millis),
)

WAITING_SQL = "state IN ('PENDING', 'QUEUED', 'RETRYING')"
# Written out as literals: a partial index serves a query only where its condition is seen to hold.
WAITING = sa.text(f"jobs.{WAITING_SQL}")


def _partial(name: str, *columns: sa.Column[object], where: str) -> sa.Index:
    clause = sa.text(where)
    return sa.Index(name, *columns, postgresql_where=clause, sqlite_where=clause)


# Lists and filters: one bounded scan per (type, state), merged.
sa.Index("jobs_type_state_idx", jobs.c.job_type, jobs.c.state, jobs.c.job_id)
# Lost tokens: the oldest waiting rows of a type.
_partial("jobs_waiting_idx", jobs.c.job_type, jobs.c.due_at, where=WAITING_SQL)
# Nobody's tokens: what the overdue reconciler publishes.
_partial("jobs_overdue_idx", jobs.c.due_at, where=f"session_id IS NULL AND {WAITING_SQL}")
# Leases that ran out.
_partial("jobs_lease_idx", jobs.c.lease_until, where="state = 'RUNNING'")
# Filters by error code and reason; most jobs are in neither.
_partial("jobs_error_idx", jobs.c.error_code, jobs.c.job_id, where="error_code IS NOT NULL")
_partial("jobs_reason_idx", jobs.c.quarantine_reason, jobs.c.job_id, where="quarantine_reason IS NOT NULL")

# Filters by label: one bounded scan per (key, value).
job_labels = sa.Table(
    "job_labels",
    metadata,
    sa.Column("key", sa.String(63), primary_key=True),
    sa.Column("value", sa.String(255), primary_key=True),
    sa.Column("job_id", sa.Uuid, primary_key=True),
)

# Idempotency keys, in a table of their own so that `jobs` can be partitioned by id, which is time.
request_keys = sa.Table(
    "request_keys",
    metadata,
    sa.Column("request_id", sa.String(128), primary_key=True),
    sa.Column("job_id", sa.Uuid, nullable=False),
    sa.Column("content_hash", sa.LargeBinary, nullable=False),
)

# The truth about types, and about which are held.
job_types = sa.Table(
    "job_types",
    metadata,
    sa.Column("job_type", sa.String(128), primary_key=True),
    sa.Column("created_at", Millis, nullable=False),
    # Grows with each hold; `jobs.hold_mark` is compared with it.
    sa.Column("hold_number", sa.Integer, nullable=False, server_default="0"),
    sa.Column("held_reason", sa.String(32)),
    sa.Column("held_since", Millis),
    sa.Column("held_until", Millis),
    # The breaker generation that last wrote the hold: an older one changes nothing.
    sa.Column("hold_generation", sa.BigInteger, nullable=False, server_default="0"),
)

# One row per publishing process, written once a second.
publishers = sa.Table(
    "publishers",
    metadata,
    sa.Column("session_id", sa.Uuid, primary_key=True),
    sa.Column("component", sa.String(32), nullable=False),
    sa.Column("beat_at", Millis, nullable=False),
    # Tokens of job ids below it are settled; NULL while everything published is.
    sa.Column("confirmed_to", sa.Uuid),
)

# How far each worker's claims have come, per type: tokens are found missing by order.
claim_fronts = sa.Table(
    "claim_fronts",
    metadata,
    sa.Column("worker_id", sa.String(128), primary_key=True),
    sa.Column("job_type", sa.String(128), primary_key=True),
    sa.Column("due_at", Millis, nullable=False),
    sa.Column("seen_at", Millis, nullable=False),
)

# Workers that live, and the types they serve.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.String(128), primary_key=True),
    sa.Column("beat_at", Millis, nullable=False),
    sa.Column("serves", sa.LargeBinary, nullable=False),
)

# What single workers were told to do, and what became of it.
worker_commands = sa.Table(
    "worker_commands",
    metadata,
    sa.Column("command_id", sa.Uuid, primary_key=True),
    sa.Column("worker_id", sa.String(128), nullable=False),
    sa.Column("instance_id", sa.String(64), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("asked_at", Millis, nullable=False),
    sa.Column("answered_at", Millis),
    sa.Column("code", sa.Integer, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Index("worker_commands_worker_idx", "worker_id", "asked_at"),
    sa.Index("worker_commands_asked_idx", "asked_at"),
    sa.Index("worker_commands_open_idx", "answered_at", "asked_at"),
)

# Every breaker transition, in commit order.
breaker_transitions = sa.Table(
    "breaker_transitions",
    metadata,
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("breaker", sa.String(130), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("from_state", sa.String(16), nullable=False),
    sa.Column("to_state", sa.String(16), nullable=False),
    sa.Column("at", Millis, nullable=False),
    sa.Column("cause", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error_code", sa.String(64), nullable=False),
    sa.UniqueConstraint("breaker", "generation"),
)

# Numbers given out in commit order, under the row's lock.
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# Messages that no worker could decode, filed from the broker's intake.
undecodable = sa.Table(
    "undecodable",
    metadata,
    sa.Column("message_id", sa.Uuid, primary_key=True),
    sa.Column("filed_at", Millis, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
