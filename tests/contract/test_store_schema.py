"""The schema: one, in code and migrations and on both databases; and nobody works with another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from jobkit.adapters.sql import schema
from jobkit.adapters.sql.engine import Database, driver_url
from jobkit.adapters.sql.tables import metadata
from jobkit.domain.errors import SchemaMismatch


def differences(connection: sa.Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
    )
    return list(compare_metadata(context, metadata))


def partial_indexes(connection: sa.Connection) -> dict[str, str]:
    """By name, the condition of each partial index: autogenerate does not compare them."""
    statement = {
        "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE indexdef LIKE '% WHERE %'",
        "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'",
    }[connection.dialect.name]
    return {name: text.split(" WHERE ")[1] for name, text in connection.execute(sa.text(statement))}


class SchemaContract:
    async def test_an_empty_database_is_refused(self, empty: Database) -> None:
        assert await schema.current(empty) == ""
        with pytest.raises(SchemaMismatch) as caught:
            await schema.check(empty)
        assert caught.value.metadata == {"found": "", "wanted": schema.head()}

    async def test_migrating_is_idempotent(self, empty: Database) -> None:
        for _ in range(2):
            assert await schema.migrate(empty) == schema.head()
            await schema.check(empty)
        assert await schema.current(empty) == schema.head()

    async def test_another_version_is_refused(self, empty: Database) -> None:
        await schema.migrate(empty)
        await empty.write(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
        with pytest.raises(SchemaMismatch, match="9999"):
            await schema.check(empty)

    async def test_the_migrations_build_what_the_code_says(self, empty: Database) -> None:
        await schema.migrate(empty)
        assert await empty.read(lambda c: c.run_sync(differences)) == []
        migrated = await empty.read(lambda c: c.run_sync(partial_indexes))
        assert len(migrated) == 10

        async def rebuild(connection: Any) -> dict[str, str]:
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
            found: dict[str, str] = await connection.run_sync(partial_indexes)
            return found

        assert await empty.write(rebuild) == migrated

    async def test_two_that_migrate_at_once_take_turns(self, empty: Database) -> None:
        other = Database(empty.url.render_as_string(hide_password=False))
        try:
            versions = await asyncio.gather(*(schema.migrate(db) for db in (empty, other)))
        finally:
            await other.close()
        assert versions == [schema.head()] * 2


class TestSqliteSchema(SchemaContract):
    @pytest.fixture
    async def empty(self, tmp_path: Path) -> AsyncIterator[Database]:
        database = Database(f"sqlite:///{tmp_path}/jobs.db")
        yield database
        await database.close()

    async def test_an_accepted_job_survives_a_power_cut(self, empty: Database) -> None:
        """WAL needs synchronous=FULL for that: one fsync per commit."""

        async def pragmas(connection: Any) -> list[Any]:
            return [
                (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]

        assert await empty.write(pragmas) == ["wal", 2, 1]


class TestPostgresSchema(SchemaContract):
    @pytest.fixture
    async def empty(self, postgres_url: str) -> AsyncIterator[Database]:
        database = Database(postgres_url)
        yield database
        await database.close()


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://u@h/d", "postgresql+asyncpg"),
        ("postgres://u@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u@h/d", "postgresql+asyncpg"),
        ("sqlite:////var/lib/jobs.db", "sqlite+aiosqlite"),
        ("sqlite+pysqlite:///jobs.db", "sqlite+aiosqlite"),
    ],
)
def test_the_driver_is_ours_to_choose(url: str, driver: str) -> None:
    assert driver_url(url).drivername == driver


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must"):
        driver_url(url)
