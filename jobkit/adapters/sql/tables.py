"""The schema, once for PostgreSQL and SQLite. `migrations/` builds it; a test compares the two.

Times are BIGINT milliseconds since the epoch in *database* time, so that both databases compare them alike and no
session time zone matters. Payloads and results are bytes, never jsonb: one `\\u0000` would fail its whole batch.
"""

from __future__ import annotations

import sqlalchemy as sa

from jobkit.adapters.sql.base import Millis, metadata, partial
from jobkit.adapters.sql.breaker_tables import (
    attempt_log,
    breaker_standing,
    breaker_transitions,
    faults,
    incidents,
    policies,
)

__all__ = [
    "WAITING",
    "WAITING_SQL",
    "Millis",
    "attempt_log",
    "breaker_standing",
    "breaker_transitions",
    "claim_fronts",
    "counters",
    "faults",
    "incidents",
    "job_labels",
    "job_types",
    "jobs",
    "metadata",
    "policies",
    "publishers",
    "redrive_jobs",
    "redrive_types",
    "redrives",
    "request_keys",
    "type_changes",
    "type_needs",
    "undecodable",
    "worker_commands",
    "workers",
]

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
    # What puts quarantined jobs together: `domain.failure.group_of`. NULL where it was never asked.
    sa.Column("failure_group", sa.BigInteger),
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


# Lists and filters: one bounded scan per (type, state), merged.
sa.Index("jobs_type_state_idx", jobs.c.job_type, jobs.c.state, jobs.c.job_id)
# Lost tokens: the oldest waiting rows of a type.
partial("jobs_waiting_idx", jobs.c.job_type, jobs.c.due_at, where=WAITING_SQL)
# Nobody's tokens: what the overdue reconciler publishes.
partial("jobs_overdue_idx", jobs.c.due_at, where=f"session_id IS NULL AND {WAITING_SQL}")
# Leases that ran out.
partial("jobs_lease_idx", jobs.c.lease_until, where="state = 'RUNNING'")
# Filters by error code and reason; most jobs are in neither.
partial("jobs_error_idx", jobs.c.error_code, jobs.c.job_id, where="error_code IS NOT NULL")
partial("jobs_reason_idx", jobs.c.quarantine_reason, jobs.c.job_id, where="quarantine_reason IS NOT NULL")
# Groups of failures, counted from the index alone; also what a redrive of one group walks along.
partial(
    "jobs_group_idx",
    jobs.c.failure_group,
    jobs.c.job_id,
    jobs.c.quarantined_at,
    where="quarantine_reason IS NOT NULL",
)

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
    # The breaker that holds it: its own, or that of a dependency.
    sa.Column("held_breaker", sa.String(130)),
    # An operator's pause: it stands until lifted, or until `paused_until` has passed.
    sa.Column("paused_since", Millis),
    sa.Column("paused_until", Millis),
    sa.Column("paused_actor", sa.Text),
    sa.Column("paused_reason", sa.Text),
    # An operator's limit: attempts of the whole fleet at once.
    sa.Column("slot_limit", sa.Integer),
    # Of the newest row in `type_changes`.
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
)

# What the handlers of a type say that they need.
type_needs = sa.Table(
    "type_needs",
    metadata,
    sa.Column("job_type", sa.String(128), primary_key=True),
    sa.Column("dependency", sa.String(128), primary_key=True),
    sa.Column("seen_at", Millis, nullable=False),
)
sa.Index("type_needs_dependency_idx", type_needs.c.dependency)

# What operators did to types, in commit order. It outlives the type.
type_changes = sa.Table(
    "type_changes",
    metadata,
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("job_type", sa.String(128), nullable=False),
    sa.Column("at", Millis, nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("until", Millis),
    sa.Column("slot_limit", sa.Integer),
)
sa.Index("type_changes_type_idx", type_changes.c.job_type, type_changes.c.revision)

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

# Quarantined jobs sent back in bulk: what was asked for, and how it ended.
redrives = sa.Table(
    "redrives",
    metadata,
    sa.Column("redrive_id", sa.Uuid, primary_key=True),
    sa.Column("filter", sa.Text, nullable=False),
    # Jobs a second, of each type; NULL for adaptive.
    sa.Column("rate", sa.Float),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("request_id", sa.String(128), unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    # Whether a reconciler still has something to do for it: jobs to send, or ends to learn of.
    sa.Column("active", sa.Boolean, nullable=False),
    # It takes what was quarantined before this moment.
    sa.Column("created_at", Millis, nullable=False),
    sa.Column("finished_at", Millis),
    sa.Column("ended_by", sa.Text, nullable=False),
    sa.Column("end_reason", sa.Text, nullable=False),
)
partial("redrives_active_idx", redrives.c.redrive_id, where="active")

# One row per job type of a redrive. Whoever works on it locks it for one short transaction.
redrive_types = sa.Table(
    "redrive_types",
    metadata,
    sa.Column("redrive_id", sa.Uuid, primary_key=True),
    sa.Column("job_type", sa.String(128), primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("redriven", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("succeeded", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.BigInteger, nullable=False, server_default="0"),
    # The last job that was sent: ids are taken in order, so that none is ever taken twice.
    sa.Column("sent_to", sa.Uuid, nullable=False),
    # Nothing is left to send.
    sa.Column("sent_all", sa.Boolean, nullable=False, server_default=sa.false()),
    # Where the next look at the jobs that have not ended goes on.
    sa.Column("looked_to", sa.Uuid, nullable=False),
    sa.Column("moved_at", Millis, nullable=False),
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("stop_reason", sa.Text, nullable=False),
    # Nothing is left to send or to learn.
    sa.Column("closed", sa.Boolean, nullable=False, server_default=sa.false()),
    # `domain.redrive.Pace`, as JSON.
    sa.Column("pace", sa.LargeBinary, nullable=False),
)

# Redriven jobs that have not ended yet. A row lives from the send to the end of its job, so that looking costs what
# is under way and not what the redrive has done so far; and the rows of `jobs` carry nothing for it.
redrive_jobs = sa.Table(
    "redrive_jobs",
    metadata,
    sa.Column("redrive_id", sa.Uuid, primary_key=True),
    sa.Column("job_type", sa.String(128), primary_key=True),
    sa.Column("job_id", sa.Uuid, primary_key=True),
    # The job's attempts when it was sent: if they have another base now, somebody has sent it again since.
    sa.Column("attempts_base", sa.Integer, nullable=False),
    # Its first run has failed.
    sa.Column("failing", sa.Boolean, nullable=False, server_default=sa.false()),
)
