"""A trace given with a submit goes with the job: on the token, into the handler, through a retry and a hold."""

from __future__ import annotations

import aio_pika
import pytest
from selfheal.control.v1 import breaker_service_pb2
from selfheal.jobs.v1 import job_pb2
from selfheal.queue.v1 import job_message_pb2

from tests.system.client import Client, eventually, submission
from tests.system.fleet import Fleet

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def trace_of(traceparent: str) -> str:
    version, trace_id, span, flags = traceparent.split("-")
    assert (version, len(span), len(flags)) == ("00", 16, 2)
    return trace_id


async def test_the_handler_sees_the_trace_that_rest_was_given(client: Client, fleet: Fleet) -> None:
    answer = await client.http(
        "POST",
        "jobapi/jobs",
        json={"jobType": fleet.handled("echo"), "payload": {}},
        headers={"traceparent": TRACEPARENT, "X-Request-ID": "mine-1"},
    )
    assert answer.headers["X-Request-ID"] == "mine-1"
    told = await client.result(answer.json["jobId"])
    assert trace_of(told["traceparent"]) == TRACE


async def test_the_handler_sees_the_trace_that_grpc_was_given_after_a_retry_too(
    client: Client, fleet: Fleet
) -> None:
    answer = await client.jobs.SubmitJob(
        submission(fleet.handled("echo"), {"failures": 1}), metadata=(("traceparent", TRACEPARENT),)
    )
    told = await client.result(answer.job.job_id)
    assert (told["attempt"], trace_of(told["traceparent"])) == (2, TRACE)


async def test_the_trace_survives_a_hold(client: Client, fleet: Fleet) -> None:
    job_type = fleet.handled("held")
    await client.breakers.OpenBreaker(
        breaker_service_pb2.OpenBreakerRequest(breaker=job_type, reason="a test")
    )
    await eventually(lambda: client.shown_breaker(job_type), lambda shown: shown.get("state") == "OPEN")
    answer = await client.jobs.SubmitJob(submission(job_type), metadata=(("traceparent", TRACEPARENT),))
    job_id = answer.job.job_id
    await eventually(lambda: client.job(job_id), lambda job: job.state == job_pb2.JOB_STATE_QUARANTINED)

    await client.breakers.ResetBreaker(breaker_service_pb2.ResetBreakerRequest(breaker=job_type))

    told = await client.result(job_id)
    assert trace_of(told["traceparent"]) == TRACE
    assert (await client.job(job_id)).holds == 1


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_the_token_carries_the_trace_and_no_payload(headless: Fleet, headless_client: Client) -> None:
    client, job_type = headless_client, headless.job_type("nobody")
    rest = await client.http(
        "POST",
        "jobapi/jobs",
        json={"jobType": job_type, "payload": {"secret": "in the database only"}},
        headers={"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "tenant=acme"},
    )
    grpc = await client.jobs.SubmitJob(submission(job_type), metadata=(("traceparent", TRACEPARENT),))

    expected = [rest.json["jobId"], grpc.job.job_id]
    found = await look_into(headless, f"jobs.main.{job_type}", len(expected))
    # Not by their place in the queue: while the first token declares it, the second may come in beside it.
    messages = {str(message.headers["x-job-id"]): message for message in found}

    assert set(messages) == set(expected)
    for job_id, message in messages.items():
        token = job_message_pb2.JobMessage.FromString(message.body)
        assert (token.job_id, token.job_type, token.attempt) == (job_id, job_type, 1)
        assert message.content_type == "application/x-protobuf"
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        headers = message.headers
        assert trace_of(str(headers["traceparent"])) == TRACE
        assert (headers["x-job-id"], headers["x-job-type"], int(str(headers["x-attempt"]))) == (
            job_id,
            job_type,
            1,
        )
    of_rest = messages[rest.json["jobId"]]
    assert of_rest.headers["tracestate"] == "vendor=1"
    assert of_rest.headers["baggage"] == "tenant=acme"


async def look_into(fleet: Fleet, queue_name: str, number: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """The first messages of a queue, which stay there."""
    connection = await aio_pika.connect(fleet.environ["RABBITMQ_URL"])
    async with connection:

        async def there() -> aio_pika.abc.AbstractQueue | None:
            """A job is accepted before the first token of its type declares the queue."""
            try:
                return await (await connection.channel()).get_queue(queue_name)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return None

        queue = await eventually(there, lambda found: found is not None)
        assert queue is not None
        messages: list[aio_pika.abc.AbstractIncomingMessage] = []

        async def fetch() -> int:
            found = await queue.get(fail=False)
            if found is not None:
                messages.append(found)
            return len(messages)

        await eventually(fetch, lambda seen: seen == number)
        for message in messages:
            await message.nack(requeue=True)
        return messages
