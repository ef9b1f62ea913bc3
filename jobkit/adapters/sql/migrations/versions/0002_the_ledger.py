"""the ledger: whose breaker moved, on what evidence, to what end; incidents"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # SQLite cannot change a constraint: there the table is copied.
    with op.batch_alter_table("breaker_transitions") as table:
        table.add_column(
            sa.Column("scope", sa.String(length=128), server_default=sa.text("''"), nullable=False)
        )
        table.add_column(sa.Column("proof", sa.LargeBinary(), nullable=True))
        table.add_column(sa.Column("open_until", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("forced", sa.Boolean(), server_default=sa.false(), nullable=False))
        table.add_column(sa.Column("reopened", sa.Integer(), server_default="0", nullable=False))
        table.drop_constraint("breaker_transitions_breaker_generation_key", type_="unique")
        table.create_unique_constraint(
            "breaker_transitions_breaker_scope_generation_key", ["breaker", "scope", "generation"]
        )
    op.create_index(
        "breaker_transitions_breaker_revision_idx", "breaker_transitions", ["breaker", "revision"]
    )
    op.create_table(
        "incidents",
        sa.Column("incident_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("breaker", sa.String(length=130), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.Column("first_failure_at", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("close_revision", sa.BigInteger(), nullable=True),
        sa.Column("close_cause", sa.String(length=16), nullable=True),
        sa.Column("probes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reopened", sa.Integer(), server_default="0", nullable=False),
        sa.Column("jobs_held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts_saved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts_counted", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("incident_id", name=op.f("incidents_pkey")),
    )
    op.create_index("incidents_breaker_idx", "incidents", ["breaker", "incident_id"])
    _partial("incidents_open_idx", "breaker", "closed_at IS NULL", unique=True)
    _partial("incidents_closed_idx", "closed_at", "closed_at IS NOT NULL")
    _partial("incidents_uncounted_idx", "incident_id", "attempts_saved > attempts_counted")
    _carry_over()


def _partial(name: str, column: str, where: str, *, unique: bool = False) -> None:
    clause = sa.text(where)
    op.create_index(name, "incidents", [column], unique=unique, postgresql_where=clause, sqlite_where=clause)


def _carry_over() -> None:
    """What entries of the first release led to, as far as it is known: until when the newest holds, and that a
    person opened it. Their transitions count as counted."""
    op.execute(
        "UPDATE breaker_transitions SET open_until = (SELECT held_until FROM job_types"
        " WHERE job_type = breaker AND hold_generation = generation)"
    )
    op.execute(
        "UPDATE breaker_transitions SET forced = true WHERE cause = 'OPERATOR' AND to_state <> 'CLOSED'"
    )
    op.execute(
        "INSERT INTO counters (name, value) SELECT 'ledger_tallied', value FROM counters WHERE name = 'ledger'"
    )
