"""redrives, and groups of failures"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("failure_group", sa.BigInteger(), nullable=True))
    # What is quarantined already is grouped by the control plane: no SQL can tell the shape of a message.
    quarantined = sa.text("quarantine_reason IS NOT NULL")
    op.create_index(
        "jobs_group_idx",
        "jobs",
        ["failure_group", "job_id", "quarantined_at"],
        unique=False,
        postgresql_where=quarantined,
        sqlite_where=quarantined,
    )
    op.create_table(
        "redrives",
        sa.Column("redrive_id", sa.Uuid(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("rate", sa.Float(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("redrive_id", name=op.f("redrives_pkey")),
        sa.UniqueConstraint("request_id", name=op.f("redrives_request_id_key")),
    )
    op.create_index(
        "redrives_active_idx",
        "redrives",
        ["redrive_id"],
        unique=False,
        postgresql_where=sa.text("active"),
        sqlite_where=sa.text("active"),
    )
    op.create_table(
        "redrive_types",
        sa.Column("redrive_id", sa.Uuid(), nullable=False),
        sa.Column("job_type", sa.String(length=128), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("redriven", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sent_to", sa.Uuid(), nullable=False),
        sa.Column("sent_all", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("looked_to", sa.Uuid(), nullable=False),
        sa.Column("moved_at", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=False),
        sa.Column("closed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("pace", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("redrive_id", "job_type", name=op.f("redrive_types_pkey")),
    )
    op.create_table(
        "redrive_jobs",
        sa.Column("redrive_id", sa.Uuid(), nullable=False),
        sa.Column("job_type", sa.String(length=128), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempts_base", sa.Integer(), nullable=False),
        sa.Column("failing", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("redrive_id", "job_type", "job_id", name=op.f("redrive_jobs_pkey")),
    )
