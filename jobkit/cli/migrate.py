"""`selfheal migrate`: brings the database to this release's schema."""

from __future__ import annotations

import asyncio
import os
import sys

from jobkit.domain.errors import SelfhealError
from jobkit.host.process import read_no_arguments, refuse
from jobkit.host.world import World
from jobkit.runtime.settings import BadSettings, Settings, load


def main(argv: list[str] | None = None) -> int:
    """0 when the schema is current, 1 when the database is away, 2 when DATABASE_URL is missing or bad."""
    read_no_arguments("migrate", "Bring the database to this release's schema.", argv)
    try:
        # It listens nowhere: what an image says about that is no matter here.
        settings = load(Settings, {**os.environ, "BIND": "127.0.0.1"}, embedded=True)
        if settings.database_url is None:
            raise BadSettings(["DATABASE_URL is missing"])
        # Nothing but the database is touched.
        only = settings.model_copy(update={"rabbitmq_url": None, "redis_url": None})
    except BadSettings as bad:
        return refuse("migrate", bad.problems)
    try:
        version = asyncio.run(_migrate(only))
    except (SelfhealError, ValueError) as error:
        return refuse("migrate", [str(error)]) - 1
    sys.stdout.write(f"the schema is at {version}\n")
    return 0


async def _migrate(settings: Settings) -> str:
    world = World("migrate", settings, os.environ)
    try:
        return await world.migrate()
    finally:
        await world.close()
