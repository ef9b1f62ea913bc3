"""What breakers took in, to be played again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt_log",
        sa.Column("breaker", sa.String(length=130), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("breaker", "first_ms", "first_number", name=op.f("attempt_log_pkey")),
    )
    op.create_index("attempt_log_last_idx", "attempt_log", ["last_ms"], unique=False)
