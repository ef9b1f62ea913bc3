"""Commands to single workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worker_commands",
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("worker_id", sa.String(length=128), nullable=False),
        sa.Column("instance_id", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("command_id", name=op.f("worker_commands_pkey")),
    )
    op.create_index("worker_commands_worker_idx", "worker_commands", ["worker_id", "asked_at"], unique=False)
    op.create_index("worker_commands_asked_idx", "worker_commands", ["asked_at"], unique=False)
    op.create_index("worker_commands_open_idx", "worker_commands", ["answered_at", "asked_at"], unique=False)
