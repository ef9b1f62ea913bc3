"""Alembic's entry point. It runs on the connection that `schema.py` hands it, never on one of its own."""

from alembic import context

from jobkit.adapters.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
