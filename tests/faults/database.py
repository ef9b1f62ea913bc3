"""A PostgreSQL of our own, and the harm that other sessions, a full disk and an administrator do to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.servers import PrivatePostgres, demotion

ROLE = "app"
BALLAST = (
    "CREATE TABLE ballast (x text) TABLESPACE tiny",
    "ALTER TABLE ballast ALTER COLUMN x SET STORAGE PLAIN",
)
MORE_BALLAST = "INSERT INTO ballast SELECT repeat('x', 7000) FROM generate_series(1, {})"


class OwnPostgres(PrivatePostgres):
    """The fleet comes as a role without privileges, so that limits of connections apply to it."""

    @property
    def app_url(self) -> str:
        return urlsplit(self.url)._replace(netloc=f"{ROLE}@127.0.0.1:{self.port}", path=f"/{ROLE}").geturl()

    async def sql(self, *statements: str, app: bool = False) -> None:
        """As the superuser, each in a transaction of its own; `app`: in the fleet's database."""
        connection = await asyncpg.connect(self.url if not app else self._in_app)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def value(self, query: str) -> Any:
        connection = await asyncpg.connect(self._in_app)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    @property
    def _in_app(self) -> str:
        return urlsplit(self.url)._replace(path=f"/{ROLE}").geturl()

    async def make_role(self) -> None:
        await self.sql(f"CREATE ROLE {ROLE} LOGIN", f"CREATE DATABASE {ROLE} OWNER {ROLE}")

    async def cut(self) -> None:
        """Every connection of the fleet ends."""
        await self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """Another program's transaction; it ends with the context."""
        connection = await asyncpg.connect(self._in_app)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def read_only(self) -> AsyncIterator[None]:
        """As a standby after a failover that nobody told us of: SQLSTATE 25006."""
        await self.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            await self.sql(
                "SET default_transaction_read_only = off",
                "ALTER SYSTEM RESET default_transaction_read_only",
                "SELECT pg_reload_conf()",
            )

    @contextlib.asynccontextmanager
    async def no_connections(self) -> AsyncIterator[None]:
        """There are too many already: SQLSTATE 53300."""
        await self.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
        await self.cut()
        try:
            yield
        finally:
            await self.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")

    @contextlib.asynccontextmanager
    async def full_disk(self) -> AsyncIterator[None]:
        """SQLSTATE 53100: on a real file system of a few megabytes where we may mount one, else by a trigger."""
        if mounted := await asyncio.to_thread(self._mount):
            try:
                async with self._filled():
                    yield
            finally:
                await asyncio.to_thread(subprocess.run, ["umount", mounted], check=False)
            return
        await self.sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$",
            *(
                f"CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION full_disk()"
                for table in ("jobs", "publishers", "request_keys", "workers")
            ),
            app=True,
        )
        try:
            yield
        finally:
            await self.sql("DROP FUNCTION full_disk() CASCADE", app=True)

    def _mount(self) -> str | None:
        path = self.directory / "tiny"
        path.mkdir(exist_ok=True)
        owner = demotion()
        options = f"size=8m,mode=0700,uid={owner.get('user', 0)},gid={owner.get('group', 0)}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
            return None
        return str(path)

    @contextlib.asynccontextmanager
    async def _filled(self) -> AsyncIterator[None]:
        """The tables that take the load's writes lie on the small file system, and something else fills it."""
        tables: Sequence[str] = ("jobs", "request_keys", "publishers", "workers")
        await self.sql(f"CREATE TABLESPACE tiny LOCATION '{self.directory}/tiny'", "CHECKPOINT")
        await self.sql(*(f"ALTER TABLE {t} SET TABLESPACE tiny" for t in tables), *BALLAST, app=True)
        for pages in (50, 1):
            with contextlib.suppress(asyncpg.DiskFullError):
                while True:
                    await self.sql(MORE_BALLAST.format(pages), app=True)
        try:
            yield
        finally:
            await self.sql("DROP TABLE ballast", app=True)
            for table in tables:
                await self.sql(f"ALTER TABLE {table} SET TABLESPACE pg_default", app=True)
            await self.sql("DROP TABLESPACE tiny")

    async def cross(self, stop: asyncio.Event) -> None:
        """Another program that locks rows in the opposite order, one by one, until told to stop."""
        newest = "SELECT job_id FROM jobs WHERE state IN ('QUEUED', 'RUNNING') ORDER BY job_id DESC LIMIT 12"
        while not stop.is_set():
            with contextlib.suppress(asyncpg.DeadlockDetectedError):
                async with self.session() as other:
                    for row in await other.fetch(newest):
                        update = "UPDATE jobs SET updated_at = updated_at WHERE job_id = $1"
                        await other.execute(update, row["job_id"])
                        await asyncio.sleep(random.uniform(0, 0.01))
