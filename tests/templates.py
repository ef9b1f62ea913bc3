"""Databases at our version, made once in a run and copied: to migrate one takes longer than most tests."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from jobkit.adapters.sql import schema
from jobkit.adapters.sql.engine import Database


@cache
def migrated() -> bytes:
    """An empty SQLite file. Not to be called where an event loop runs."""
    with tempfile.TemporaryDirectory(prefix="selfheal-template-") as folder:
        path = Path(folder) / "empty.db"
        migrate(f"sqlite:///{path}")
        return path.read_bytes()


def migrate(url: str) -> None:
    """Bring the database there to our version, and leave it."""

    async def there() -> None:
        database = Database(url)
        await schema.migrate(database)
        await database.close()

    asyncio.run(there())


@contextlib.asynccontextmanager
async def temporary_database(server: str, template: str = "template0") -> AsyncIterator[str]:
    """The URL of a copy of `template` on the PostgreSQL at `server`, dropped afterwards with whoever is
    still connected."""
    name = f"selfheal_test_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


@contextlib.contextmanager
def held(manager: contextlib.AbstractAsyncContextManager[str]) -> Iterator[str]:
    """An asynchronous manager, entered where no event loop runs."""
    with asyncio.Runner() as loop:
        value = loop.run(manager.__aenter__())
        yield value
        loop.run(manager.__aexit__(None, None, None))
