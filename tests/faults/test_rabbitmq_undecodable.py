"""Messages that are no tokens are put aside and filed, in nobody's way; tokens of a newer release are taken."""

from __future__ import annotations

import asyncio
import json
import uuid

import aio_pika
import pytest
from selfheal.control.v1.breaker_service_pb2 import OpenBreakerRequest, ResetBreakerRequest
from selfheal.queue.v1.job_message_pb2 import JobMessage

from tests.faults.broker import Vhost
from tests.faults.kit import query
from tests.faults.test_rabbitmq_wiped import lost, mains
from tests.system.client import SUCCEEDED, Client, eventually
from tests.system.fleet import Fleet

PROTOBUF = "application/x-protobuf"
# Field 100, three bytes: what a later version of the message may carry.
UNKNOWN_FIELD = b"\xa2\x06\x03new"


def token(job_id: str, job_type: str, attempt: int = 1) -> bytes:
    return JobMessage(job_id=job_id, job_type=job_type, attempt=attempt).SerializeToString()


async def publish(vhost: Vhost, job_type: str, *messages: aio_pika.Message) -> None:
    async with vhost.channel() as channel:
        for message in messages:
            await (await channel.get_exchange("jobs")).publish(message, job_type)


async def filed(fleet: Fleet) -> list[dict[str, str]]:
    rows = await query(fleet.environ["DATABASE_URL"], "SELECT headers FROM undecodable")
    return [json.loads(bytes(headers)) for (headers,) in rows]  # type: ignore[call-overload]


@pytest.mark.short
async def test_what_is_no_token_is_filed_and_stops_nobody(battered: Fleet, vhost: Vhost) -> None:
    good = battered.handled("good")
    someone = str(uuid.uuid4())
    bodies = [
        b"\xff\xfe not protobuf",
        b"",
        token("no uuid", good),
        token(someone, battered.handled("slow")),  # on the wrong queue: no handler for it may be here
        token(someone, good, attempt=0),
    ]
    before = len(await filed(battered))
    strange = [
        aio_pika.Message(body, content_type=PROTOBUF, headers={"n": str(n)}) for n, body in enumerate(bodies)
    ]
    text = aio_pika.Message(token(someone, good), content_type="text/plain", headers={"n": "text"})
    async with Client(battered) as client:
        await client.settled(await client.submit(good))
        await publish(vhost, good, *strange, text)
        after = await client.submit(good)
        assert (await client.settled(after)).state == SUCCEEDED
        headers = await eventually(lambda: filed(battered), lambda rows: len(rows) == before + 6)
    new = headers[before:]
    assert {header["n"] for header in new} == {"0", "1", "2", "3", "4", "text"}
    assert {header["x-queue"] for header in new} == {f"jobs.main.{good}"}
    await eventually(lambda: vhost.depth("jobs.quarantine"), lambda depth: depth == 0)


async def test_what_is_no_token_waits_while_nothing_can_be_published(battered: Fleet, vhost: Vhost) -> None:
    """It is put aside by a publish: until that is possible it stays on its queue, and others pass it."""
    held = battered.handled("held")
    (queue,) = mains(battered, "held")
    before = len(await filed(battered))
    async with Client(battered) as client:
        await client.settled(await client.submit(held))
        await client.breakers.OpenBreaker(OpenBreakerRequest(breaker=held, reason="until the alarm"))
        await publish(vhost, held, aio_pika.Message(b"?"))
        jobs = await client.submit_many(held, 20)
        await eventually(lambda: vhost.depth(queue), lambda depth: depth >= 21)
        await asyncio.to_thread(vhost.alarm)
        try:
            await client.breakers.ResetBreaker(ResetBreakerRequest(breaker=held, reason="alarmed"))
            for job in jobs:
                assert (await client.settled(job)).state == SUCCEEDED
            assert len(await filed(battered)) == before
        finally:
            await asyncio.to_thread(vhost.calm)
        await eventually(lambda: filed(battered), lambda rows: len(rows) == before + 1)


async def test_a_token_of_a_newer_release_is_taken(battered: Fleet, vhost: Vhost) -> None:
    held = battered.handled("held")
    (queue,) = mains(battered, "held")
    async with Client(battered) as client:
        first = await client.submit(held)
        assert (await client.settled(first)).state == SUCCEEDED
        await client.breakers.OpenBreaker(OpenBreakerRequest(breaker=held, reason="to exchange its token"))
        job = await client.submit(held)
        await eventually(lambda: vhost.depth(queue), lambda depth: depth == 1)
        missed = lost(battered)
        assert await vhost.purge([queue]) == 1
        body = token(job, held) + UNKNOWN_FIELD
        await publish(vhost, held, aio_pika.Message(body, content_type=PROTOBUF, headers={"x-new": "1"}))
        await client.breakers.ResetBreaker(ResetBreakerRequest(breaker=held, reason="done"))
        assert (await client.settled(job)).state == SUCCEEDED
    assert lost(battered) == missed
