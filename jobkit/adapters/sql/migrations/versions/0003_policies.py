"""policies, dependencies, and where each breaker stands"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("pattern", sa.String(length=130), nullable=False),
        sa.Column("settings", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pattern", name=op.f("policies_pkey")),
    )
    op.create_table(
        "type_needs",
        sa.Column("job_type", sa.String(length=128), nullable=False),
        sa.Column("dependency", sa.String(length=128), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_type", "dependency", name=op.f("type_needs_pkey")),
    )
    op.create_index(op.f("type_needs_dependency_idx"), "type_needs", ["dependency"])
    op.create_table(
        "breaker_standing",
        sa.Column("breaker", sa.String(length=130), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("holds", sa.Boolean(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("breaker", name=op.f("breaker_standing_pkey")),
    )
    op.add_column("job_types", sa.Column("held_breaker", sa.String(length=130), nullable=True))
    op.execute("UPDATE job_types SET held_breaker = job_type WHERE held_reason IS NOT NULL")
    op.execute(
        "INSERT INTO breaker_standing (breaker, generation, holds, since, until)"
        " SELECT job_type, hold_generation, held_reason IS NOT NULL, held_since, held_until FROM job_types"
    )
    op.drop_column("job_types", "hold_generation")
