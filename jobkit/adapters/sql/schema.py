"""The schema's version: bringing a database to it, and refusing to work with another."""

from __future__ import annotations

from importlib import resources
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from jobkit.adapters.sql.engine import Database
from jobkit.domain.errors import SchemaMismatch

# Two processes that migrate at once take turns.
MIGRATION_LOCK = 0x5E1FEA1


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("jobkit.adapters.sql") / "migrations"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The version that this release works with."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


async def current(database: Database) -> str:
    """The database's version, "" when it is empty. Raises Unavailable."""

    async def work(connection: Any) -> str:
        found = await connection.run_sync(
            lambda sync: MigrationContext.configure(sync).get_current_revision()
        )
        return found or ""

    return await database.read(work)


async def check(database: Database) -> None:
    """Raises SchemaMismatch, or Unavailable."""
    found, wanted = await current(database), head()
    if found != wanted:
        raise SchemaMismatch(found, wanted)


async def migrate(database: Database) -> str:
    """Bring the database to this release's version, in one transaction; returns the version."""

    async def work(connection: Any) -> None:
        if not database.is_sqlite:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), "head"))

    await database.write(work)
    return head()
