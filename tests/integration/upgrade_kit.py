"""A database and a broker as an earlier release, or a later one, left them: see tests/data."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import sqlalchemy as sa
from aio_pika.abc import AbstractExchange
from aio_pika.exceptions import DeliveryError
from alembic import command
from pamqp.commands import Basic
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.rabbitmq import topology
from jobkit.adapters.sql import schema
from jobkit.adapters.sql.engine import Database

DATA = Path(__file__).parents[1] / "data"
RELEASES = sorted(folder.name for folder in DATA.iterdir() if (folder / "rows.json").exists())
# A message of a release that knows more: field 100 of the protobuf, a string, and headers of every shape.
UNKNOWN_FIELD = bytes.fromhex("a206066675747572 65".replace(" ", ""))
UNKNOWN_HEADERS = {"x-future": "1", "x-table": {"a": [1, 2]}, "x-number": 7}


@dataclass(frozen=True)
class Release:
    """What one release left behind."""

    version: str

    def _read(self, name: str) -> Any:
        return json.loads((DATA / self.version / f"{name}.json").read_text(encoding="utf-8"))

    @property
    def jobs(self) -> Mapping[str, UUID]:
        """Ids by what the job is there for."""
        return {name: UUID(job_id) for name, job_id in self._read("rows")["jobs"].items()}

    @property
    def tokens(self) -> Mapping[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self._read("tokens")
        return found

    async def restore(self, url: str, *, without: tuple[str, ...] = ()) -> None:
        """Its schema and its rows in an empty database; tables named in `without` stay empty."""
        told = self._read("rows")
        database = Database(url)

        def fill(connection: sa.Connection) -> None:
            command.upgrade(schema._config(connection), told["revision"])
            # As it is in the database now, whatever today's code thinks of it.
            found = sa.MetaData()
            found.reflect(connection)
            for name, rows in told["tables"].items():
                if rows and name not in without:
                    values = [
                        {column: _unpacked(value, database) for column, value in row.items()} for row in rows
                    ]
                    connection.execute(sa.insert(found.tables[name]), values)

        await _within(database, fill)

    async def add_columns(self, url: str) -> None:
        """A later release has begun its migration: every table has a nullable column that we do not know."""
        database = Database(url)

        def widen(connection: sa.Connection) -> None:
            for table in sa.inspect(connection).get_table_names():
                if table != "alembic_version":
                    connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN future VARCHAR(10)"))
                    connection.execute(sa.text(f"UPDATE {table} SET future = 'x'"))

        await _within(database, widen)


def _unpacked(value: Any, database: Database) -> Any:
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    return UUID(value["uuid"]).hex if database.is_sqlite else UUID(value["uuid"])


async def _within(database: Database, work: Any) -> None:
    async def run(connection: AsyncConnection) -> None:
        await connection.run_sync(work)

    await database.write(run)
    await database.close()


async def publish(url: str, tokens: Mapping[str, Mapping[str, Any]], *, later: bool = False) -> None:
    """Put messages on the broker byte for byte; `later`: as a release would write them that knows more."""
    connection = await aio_pika.connect(url)
    # As that release had declared it: on this broker nobody may have used it yet.
    async with connection, await connection.channel(on_return_raises=True) as channel:
        for token in tokens.values():
            delay = token["exchange"].removeprefix("jobs.retry.")
            pieces = [topology.main(token["headers"]["x-job-type"])]
            pieces += [topology.rung(int(delay))] if delay.isdigit() else []
            for piece in pieces:
                await topology.declare(await channel.get_underlay_channel(), piece, 10)
            message = aio_pika.Message(
                bytes.fromhex(token["body"]) + (UNKNOWN_FIELD if later else b""),
                headers={**token["headers"], **(UNKNOWN_HEADERS if later else {})},
                content_type=token["content_type"],
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await _confirmed(await channel.get_exchange(token["exchange"]), message, token["routing_key"])


async def _confirmed(exchange: AbstractExchange, message: aio_pika.Message, routing_key: str) -> None:
    """A queue that was declared a moment ago may still refuse what comes (a nack, on RabbitMQ 3.10)."""
    for _ in range(50):
        try:
            await exchange.publish(message, routing_key, mandatory=True)
        except DeliveryError as error:
            if not isinstance(error.frame, Basic.Nack):
                raise
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError(f"{routing_key} refuses messages")
