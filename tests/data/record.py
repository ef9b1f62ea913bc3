"""Writes down what this release leaves behind: `python -m tests.data.record` at a release, before its version moves.

<version>/rows.json    the rows of a database with jobs in every state, and the schema revision that they fit
<version>/tokens.json  messages as they lie on RabbitMQ: body, headers, properties

Never run it again for a version that has been released: those files are the past.
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from jobkit import __version__
from jobkit.adapters.rabbitmq import codec
from jobkit.adapters.sql import schema
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.tables import metadata
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.job import QuarantineReason, Token, TraceContext
from jobkit.domain.tripping import decide_open_until, open_by_hand
from jobkit.ports import Dispatch, Held
from tests.contract.store_contract import SESSION, Store

HERE = Path(__file__).parent
TRACE = TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "k=v", "user=1")


async def jobs_in_every_state(store: Store) -> dict[str, UUID]:
    """By name. Of type "email" unless the name says otherwise."""
    named = {
        "pending": await store.submit(session=None, labels={"tenant": "acme"}),
        "queued": await store.submit(request_id="r-1", content_hash=b"hash", trace=TRACE),
        "retrying": await store.retrying(),
        "running": await store.running(),
        "cancelling": await store.running(),
        "exhausted": await store.isolated(),
        "refused": await store.isolated(reason=QuarantineReason.NON_RETRYABLE),
        "poison": await store.isolated(reason=QuarantineReason.POISON),
        "succeeded": await store.succeeded(),
        "cancelled": await store.cancelled(),
        "discarded": await store.discarded(),
        "held sms": await store.submit("sms"),
        "healing fax": await store.submit("fax"),
    }
    await store.work.progress([(Held(named["running"], 1), 3, 10)])
    await store.steering.cancel(named["cancelling"])
    return named


async def everything_else(store: Store) -> None:
    """Holds by hand and on evidence, sessions, workers, an undecodable message."""
    now = await store.database.now()
    await store.ledger.record(open_by_hand(BreakerRecord("sms"), now, None, "ops", "kept by hand"))
    opened = decide_open_until(BreakerRecord("fax"), now + 1_000, "NETWORK_ERROR", now)
    assert opened is not None
    await store.ledger.record(opened)
    await store.sessions.beat(SESSION, "jobapi", UUID(int=1))
    await store.presence.beat("worker-1", ["email", "fax", "sms"], {"email": now})
    await store.recovery.file_undecodable([(b"\xff", {"x-queue": "jobs.main.email"})])


def packed(value: Any) -> Any:
    """For JSON: bytes and UUIDs by their kind."""
    if isinstance(value, UUID):
        return {"uuid": str(value)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


async def rows() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/jobs.db")
        revision = await schema.migrate(database)
        store = Store(database)
        named = await jobs_in_every_state(store)
        await everything_else(store)

        async def read(connection: Any) -> dict[str, list[dict[str, Any]]]:
            return {
                table.name: [
                    {name: packed(value) for name, value in row._mapping.items()}
                    for row in await connection.execute(sa.select(table))
                ]
                for table in metadata.sorted_tables
            }

        tables = await database.read(read)
        await database.close()
    return {"revision": revision, "jobs": {name: str(i) for name, i in named.items()}, "tables": tables}


def token(dispatch: Dispatch) -> dict[str, Any]:
    message = codec.encode(dispatch)
    return {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "body": message.body.hex(),
        "headers": dict(message.headers),
        "content_type": message.content_type,
    }


def main() -> None:
    told = asyncio.run(rows())
    ids = {name: UUID(job_id) for name, job_id in told["jobs"].items()}
    tokens = {
        "pending": token(Dispatch(Token(ids["pending"], "email"))),
        "queued": token(Dispatch(Token(ids["queued"], "email", 1, TRACE))),
        "retrying": token(Dispatch(Token(ids["retrying"], "email", 2), delay=250)),
    }
    folder = HERE / __version__
    folder.mkdir(exist_ok=True)
    for name, value in (("rows", told), ("tokens", tokens)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
