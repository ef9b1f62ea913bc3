"""What is kept about breakers: how they stand, what they went by, and what became of them. Part of `tables`."""

from __future__ import annotations

import sqlalchemy as sa

from jobkit.adapters.sql.base import Millis, metadata, partial

# Whether each breaker holds, after its newest generation that was recorded: an older one changes nothing.
breaker_standing = sa.Table(
    "breaker_standing",
    metadata,
    sa.Column("breaker", sa.String(130), primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("holds", sa.Boolean, nullable=False),
    sa.Column("since", Millis),
    sa.Column("until", Millis),
)

# What operators set about breakers, by name pattern.
policies = sa.Table(
    "policies",
    metadata,
    sa.Column("pattern", sa.String(130), primary_key=True),
    sa.Column("settings", sa.LargeBinary, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("updated_at", Millis, nullable=False),
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
    # "" for the fleet, or the worker that went by a breaker of its own.
    sa.Column("scope", sa.String(128), nullable=False, server_default=sa.text("''")),
    # What the fleet had seen, as JSON; NULL when evidence was not the cause.
    sa.Column("proof", sa.LargeBinary),
    # What the move led to, so that a breaker can be rebuilt from its newest entry.
    sa.Column("open_until", Millis),
    sa.Column("forced", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("reopened", sa.Integer, nullable=False, server_default="0"),
    # In this order: the newest of a breaker's fleet entries are one short scan.
    sa.UniqueConstraint("breaker", "scope", "generation"),
)
# A breaker's history, and what a watcher of one breaker has not seen yet.
sa.Index(
    "breaker_transitions_breaker_revision_idx", breaker_transitions.c.breaker, breaker_transitions.c.revision
)

# From a fleet breaker's opening to its closing; written in the transaction of the ledger entries.
incidents = sa.Table(
    "incidents",
    metadata,
    # The revision of the transition that opened it.
    sa.Column("incident_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("breaker", sa.String(130), nullable=False),
    sa.Column("opened_at", Millis, nullable=False),
    # The same moment by the database's clock, which jobs' times are compared with.
    sa.Column("noted_at", Millis, nullable=False),
    sa.Column("first_failure_at", Millis),
    sa.Column("cause", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error_code", sa.String(64), nullable=False),
    sa.Column("closed_at", Millis),
    sa.Column("close_revision", sa.BigInteger),
    sa.Column("close_cause", sa.String(16)),
    sa.Column("probes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("reopened", sa.Integer, nullable=False, server_default="0"),
    sa.Column("jobs_held", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("attempts_saved", sa.BigInteger, nullable=False, server_default="0"),
    # How many of them some control plane's counter has.
    sa.Column("attempts_counted", sa.BigInteger, nullable=False, server_default="0"),
)
sa.Index("incidents_breaker_idx", incidents.c.breaker, incidents.c.incident_id)
# A breaker has one open incident at most.
_open = sa.text("closed_at IS NULL")
sa.Index("incidents_open_idx", incidents.c.breaker, unique=True, postgresql_where=_open, sqlite_where=_open)
partial("incidents_closed_idx", incidents.c.closed_at, where="closed_at IS NOT NULL")
partial("incidents_uncounted_idx", incidents.c.incident_id, where="attempts_saved > attempts_counted")

# What breakers took in (domain/attempts.py), one row per batch as it was taken from their store, in its time.
attempt_log = sa.Table(
    "attempt_log",
    metadata,
    sa.Column("breaker", sa.String(130), primary_key=True),
    # The position of the first entry, and of the last.
    sa.Column("first_ms", Millis, primary_key=True, autoincrement=False),
    sa.Column("first_number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last_ms", Millis, nullable=False),
    sa.Column("last_number", sa.BigInteger, nullable=False),
    # How many entries and attempts.
    sa.Column("weight", sa.Integer, nullable=False),
    # JSON, compressed.
    sa.Column("entries", sa.LargeBinary, nullable=False),
    # The entry after which the first one was written; NULL where that is not known.
    sa.Column("after_ms", Millis),
    sa.Column("after_number", sa.BigInteger),
)
sa.Index("attempt_log_last_idx", attempt_log.c.last_ms)

# Failures on purpose. They stay as long as the ledger, as the record of who did what.
faults = sa.Table(
    "faults",
    metadata,
    sa.Column("fault_id", sa.Uuid, primary_key=True),
    sa.Column("job_type", sa.String(128), nullable=False),
    sa.Column("error_code", sa.String(64), nullable=False),
    sa.Column("rate", sa.Float, nullable=False),
    sa.Column("ttl_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("injected_at", Millis, nullable=False),
    sa.Column("ends_at", Millis, nullable=False),
    sa.Column("stopped_at", Millis),
    sa.Column("stopped_by", sa.Text, nullable=False),
    sa.Column("stop_reason", sa.Text, nullable=False),
)
sa.Index("faults_ends_idx", faults.c.ends_at)
