"""operators' pauses and limits of job types, and what they did"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("paused_since", sa.BigInteger()),
        sa.Column("paused_until", sa.BigInteger()),
        sa.Column("paused_actor", sa.Text()),
        sa.Column("paused_reason", sa.Text()),
        sa.Column("slot_limit", sa.Integer()),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
    ):
        op.add_column("job_types", column)
    op.create_table(
        "type_changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job_type", sa.String(length=128), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger()),
        sa.Column("slot_limit", sa.Integer()),
        sa.PrimaryKeyConstraint("revision", name=op.f("type_changes_pkey")),
    )
    op.create_index("type_changes_type_idx", "type_changes", ["job_type", "revision"])


def downgrade() -> None:
    op.drop_table("type_changes")
    for name in ("revision", "slot_limit", "paused_reason", "paused_actor", "paused_until", "paused_since"):
        op.drop_column("job_types", name)
