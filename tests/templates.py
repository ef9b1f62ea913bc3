"""Databases at our version, made once in a run and copied: to migrate one takes longer than most tests."""

from __future__ import annotations

import asyncio
import tempfile
from functools import cache
from pathlib import Path

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
