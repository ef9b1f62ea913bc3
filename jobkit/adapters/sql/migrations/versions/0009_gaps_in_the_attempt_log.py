"""Which entry a batch of the attempt log was written after, so that a gap shows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt_log", sa.Column("after_ms", sa.BigInteger(), nullable=True))
    op.add_column("attempt_log", sa.Column("after_number", sa.BigInteger(), nullable=True))
