"""What only a real broker can show: what lies on it, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlsplit

import aio_pika
import pytest
from selfheal.queue.v1.job_message_pb2 import JobMessage

from jobkit.adapters.rabbitmq import topology, wire
from jobkit.adapters.rabbitmq.dispatcher import RabbitDispatcher
from jobkit.domain.errors import Unavailable
from jobkit.domain.job import Token, TraceContext
from jobkit.domain.retry import LADDER
from jobkit.ports import Dispatch
from tests.conftest import RabbitVhost
from tests.contract.inbox import TYPE, Inbox, dispatches, drained, tokens, until

TRACE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1", "user=1")


@pytest.fixture
def connection_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def dispatcher(rabbitmq: RabbitVhost, connection_name: str) -> AsyncIterator[RabbitDispatcher]:
    dispatcher = RabbitDispatcher(
        rabbitmq.url,
        name=connection_name,
        connect_timeout=timedelta(seconds=5),
        confirm_timeout=timedelta(seconds=5),
    )
    await dispatcher.start()
    yield dispatcher
    await dispatcher.close()


@pytest.fixture
async def other(rabbitmq: RabbitVhost) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A stranger's channel, as any AMQP client has it."""
    async with await aio_pika.connect(rabbitmq.url) as connection:
        yield await connection.channel()


def look(rabbitmq: RabbitVhost, what: str, *columns: str) -> list[dict[str, Any]]:
    """rabbitmqctl's list of something in our vhost."""
    listed = rabbitmq.ctl(what, "-p", rabbitmq.name, "--formatter", "json", *columns)
    return cast(list[dict[str, Any]], json.loads(listed))


async def cut(rabbitmq: RabbitVhost, name: str) -> None:
    """Have the broker close the one connection of that name."""
    columns = ("--no-table-headers", "pid", "client_properties")
    listed = await asyncio.to_thread(rabbitmq.ctl, "list_connections", *columns)
    (pid,) = [line.split("\t")[0] for line in listed.splitlines() if f'"{name}"' in line]
    await asyncio.to_thread(rabbitmq.ctl, "close_connection", pid, "cut by a test")


async def eventually(holds: Callable[[], bool], what: str) -> None:
    async def check() -> bool:
        return holds()

    await until(check, what)


# -- what lies on the broker


async def test_the_declarations_are_those_of_the_contract(
    dispatcher: RabbitDispatcher, rabbitmq: RabbitVhost
) -> None:
    token = tokens(1)[0]
    assert all(await dispatcher.publish([Dispatch(token), *(Dispatch(token, step) for step in LADDER)]))
    queues = {q["name"]: q for q in look(rabbitmq, "list_queues", "name", "durable", "arguments")}
    assert all(queue["durable"] for queue in queues.values())
    # rabbitmqctl gives [name, AMQP type, value]; integers of any width are equal to the broker.
    arguments = {name: {key: value for key, _, value in queue["arguments"]} for name, queue in queues.items()}
    assert arguments == {
        "jobs.quarantine": {"x-queue-type": "quorum"},
        f"jobs.main.{TYPE}": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000},
    } | {
        f"jobs.retry.{step}": {
            "x-queue-type": "quorum",
            "x-message-ttl": step,
            "x-dead-letter-exchange": "jobs",
        }
        for step in LADDER
    }
    found = look(rabbitmq, "list_exchanges", "name", "type", "durable", "arguments")
    exchanges = {e["name"]: (e["type"], e["durable"]) for e in found if not e["name"].startswith("amq.")}
    assert exchanges == {"": ("direct", True), "jobs": ("direct", True)} | {
        f"jobs.retry.{step}": ("fanout", True) for step in LADDER
    }


async def test_the_intake_is_declared_at_the_start(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    assert dispatcher.available
    await other.get_queue("jobs.quarantine")
    await other.get_exchange("jobs")


async def test_a_token_on_the_wire_can_be_read_by_any_client(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    plain, traced = Token(uuid.uuid4(), TYPE, 3), Token(uuid.uuid4(), TYPE, 1, TRACE)
    await dispatcher.publish([Dispatch(plain), Dispatch(traced)])
    queue = await other.get_queue(f"jobs.main.{TYPE}")
    first, second = await queue.get(timeout=5), await queue.get(timeout=5)
    broker = {"x-delivery-count": 0}
    assert first.headers == broker | {"x-job-id": str(plain.job_id), "x-job-type": TYPE, "x-attempt": 3}
    assert second.headers == broker | {
        "x-job-id": str(traced.job_id),
        "x-job-type": TYPE,
        "x-attempt": 1,
        "traceparent": TRACE.traceparent,
        "tracestate": TRACE.tracestate,
        "baggage": TRACE.baggage,
    }
    assert first.content_type == "application/x-protobuf"
    assert first.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert (first.exchange, first.routing_key) == ("jobs", TYPE)
    message = JobMessage.FromString(first.body)
    assert message == JobMessage(job_id=str(plain.job_id), job_type=TYPE, attempt=3)
    await first.ack()
    await second.ack()


async def test_a_retried_token_returns_to_the_queue_of_its_type(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    token = Token(uuid.uuid4(), TYPE, 2, TRACE)
    elsewhere = Token(uuid.uuid4(), "sms", 1)
    assert await dispatcher.publish([Dispatch(token, 500), Dispatch(elsewhere, 500)]) == [True, True]
    assert await dispatcher.depth(TYPE) == 0
    inbox = Inbox()
    lane = await dispatcher.open_lane(TYPE, inbox)
    await lane.consume(5)
    await inbox.wait(1)
    assert inbox.tokens == [token]
    assert not inbox.deliveries[0].redelivered
    rung = await other.declare_queue("jobs.retry.500", passive=True)
    assert rung.declaration_result.message_count == 0


# -- what cannot be decoded


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff not a token", "application/x-protobuf"),
        (b"", "application/x-protobuf"),
        (JobMessage(job_id="not-a-uuid", job_type=TYPE, attempt=1).SerializeToString(), None),
        (JobMessage(job_id=str(uuid.UUID(int=7)), job_type="sms", attempt=1).SerializeToString(), None),
        (JobMessage(job_id=str(uuid.UUID(int=7)), job_type=TYPE).SerializeToString(), None),
        (b'{"job_id": "x"}', "application/json"),
    ],
    ids=["garbage", "empty", "no id", "another type", "no attempt", "another format"],
)
async def test_an_undecodable_message_ends_in_the_intake_with_its_headers(
    dispatcher: RabbitDispatcher,
    other: aio_pika.abc.AbstractChannel,
    body: bytes,
    content_type: str | None,
) -> None:
    inbox = Inbox()
    lane = await dispatcher.open_lane(TYPE, inbox)
    await lane.consume(5)
    message = aio_pika.Message(body, content_type=content_type, headers={"who": "me", "n": 1})
    await (await other.get_exchange("jobs")).publish(message, TYPE)
    (delivery,) = await inbox.wait(1)
    assert delivery.token is None
    await lane.quarantine(delivery)
    assert await drained(dispatcher, 5) == [(body, {"who": "me", "n": "1", "x-queue": f"jobs.main.{TYPE}"})]
    await lane.close()
    assert await dispatcher.depth(TYPE) == 0


async def test_tokens_of_clients_that_name_no_format_are_read(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    inbox = Inbox()
    lane = await dispatcher.open_lane(TYPE, inbox)
    await lane.consume(5)
    body = JobMessage(job_id=str(uuid.UUID(int=7)), job_type=TYPE, attempt=1).SerializeToString()
    message = aio_pika.Message(body, headers={"traceparent": bytearray(TRACE.traceparent.encode())})
    await (await other.get_exchange("jobs")).publish(message, TYPE)
    await inbox.wait(1)
    assert inbox.tokens == [Token(uuid.UUID(int=7), TYPE, 1, TraceContext(TRACE.traceparent))]


# -- what the broker refuses


async def test_a_message_that_no_queue_wants_is_reported(
    dispatcher: RabbitDispatcher, monkeypatch: pytest.MonkeyPatch, other: aio_pika.abc.AbstractChannel
) -> None:
    good, bad = tokens(1)[0], tokens(1, "nowhere")[0]

    async def declare_only_mail(channel: object, piece: topology.Piece, timeout: float) -> None:
        if piece.routing_key != "nowhere":
            await declare(channel, piece, timeout)  # type: ignore[arg-type]

    declare = topology.declare
    monkeypatch.setattr(topology, "declare", declare_only_mail)
    answers = await dispatcher.publish(dispatches([good, bad, good, bad]))
    assert answers == [True, False, True, False]


async def test_a_queue_that_somebody_deleted_is_declared_again(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    assert await dispatcher.publish(dispatches(tokens(2))) == [True, True]
    await other.queue_delete(f"jobs.main.{TYPE}")
    mixed = [*dispatches(tokens(2)), *dispatches(tokens(1, "sms"))]
    assert await dispatcher.publish(mixed) == [True, True, True]
    assert await dispatcher.depth(TYPE) == 2


async def test_a_rung_that_somebody_deleted_is_declared_again(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    assert await dispatcher.publish(dispatches(tokens(1), 60000)) == [True]
    await other.queue_delete("jobs.retry.60000")
    assert await dispatcher.publish(dispatches(tokens(1), 60000)) == [True]
    # A missing exchange closes the channel: that batch is lost, the next one declares everything anew.
    await other.exchange_delete("jobs.retry.60000")
    assert await dispatcher.publish(dispatches(tokens(1), 60000)) == [False]
    assert await dispatcher.publish(dispatches(tokens(1), 60000)) == [True]


async def test_a_full_queue_that_refuses_is_reported(
    dispatcher: RabbitDispatcher, rabbitmq: RabbitVhost
) -> None:
    assert await dispatcher.publish(dispatches(tokens(1))) == [True]
    policy = '{"max-length": 3, "overflow": "reject-publish"}'
    await asyncio.to_thread(rabbitmq.ctl, "set_policy", "-p", rabbitmq.name, "full", "jobs.main.*", policy)

    async def refuses() -> bool:
        return not all(await dispatcher.publish(dispatches(tokens(5))))

    await until(refuses, "a nack")
    assert not any(await dispatcher.publish(dispatches(tokens(5))))


async def test_a_declaration_that_differs_is_reported_and_harms_no_other_type(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    await other.declare_queue("jobs.main.odd", durable=True)
    assert await dispatcher.publish(dispatches(tokens(1, "odd"))) == [False]
    with pytest.raises(Unavailable):
        await dispatcher.open_lane("odd", Inbox())
    assert await dispatcher.publish(dispatches(tokens(1))) == [True]


# -- a consumer that loses its queue


async def test_a_lane_whose_queue_is_deleted_says_so_and_consumes_again(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    inbox = Inbox()
    lane = await dispatcher.open_lane(TYPE, inbox)
    await lane.consume(5)
    await other.queue_delete(f"jobs.main.{TYPE}")
    await eventually(lambda: not lane.consuming, "the lane knows")
    await lane.consume(5)
    assert lane.consuming
    await dispatcher.publish(dispatches(tokens(1)))
    await inbox.wait(1)


async def test_a_paused_lane_survives_the_loss_of_its_queue(
    dispatcher: RabbitDispatcher, other: aio_pika.abc.AbstractChannel
) -> None:
    lane = await dispatcher.open_lane(TYPE, Inbox())
    await other.queue_delete(f"jobs.main.{TYPE}")
    with pytest.raises(Unavailable):
        await lane.consume(5)
    await lane.consume(5)
    assert lane.consuming


# -- a connection that is lost


async def test_a_lost_connection_fails_the_batch_instead_of_hanging_it(
    dispatcher: RabbitDispatcher, rabbitmq: RabbitVhost, connection_name: str
) -> None:
    answers: list[bool] = []
    stop = asyncio.Event()

    async def publish() -> None:
        while not stop.is_set():
            answers.extend(await dispatcher.publish(dispatches(tokens(500))))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        group.create_task(publish())
        await cut(rabbitmq, f"{connection_name} publish")
        await eventually(lambda: False in answers, "a failed batch")
        await eventually(lambda: dispatcher.available, "a new connection")
        stop.set()
    assert await dispatcher.publish(dispatches(tokens(3))) == [True] * 3


async def test_a_lane_consumes_again_after_a_lost_connection(
    dispatcher: RabbitDispatcher, rabbitmq: RabbitVhost, connection_name: str
) -> None:
    sent = tokens(2)
    inbox = Inbox()
    lane = await dispatcher.open_lane(TYPE, inbox)
    await lane.consume(5)
    await dispatcher.publish(dispatches(sent))
    held = await inbox.wait(2)
    await lane.ack(held[:1])
    await cut(rabbitmq, f"{connection_name} consume")
    await eventually(lambda: not lane.consuming and not held[1].live, "the lane knows")
    await lane.ack(held)
    assert await dispatcher.publish(dispatches(tokens(1, "sms"))) == [True]

    async def consumes() -> bool:
        try:
            await lane.consume(5)
        except Unavailable:
            return False
        return lane.consuming

    await until(consumes, "a consumer again")
    await inbox.wait(3)
    assert inbox.tokens == [*sent, sent[1]]
    assert inbox.deliveries[2].redelivered
    await lane.ack(inbox.deliveries)


async def test_a_start_without_a_broker_fails_and_goes_on_trying() -> None:
    dispatcher = RabbitDispatcher("amqp://127.0.0.1:1/", connect_timeout=timedelta(milliseconds=300))
    with pytest.raises(Unavailable):
        await dispatcher.start()
    assert not dispatcher.available
    assert await dispatcher.publish(dispatches(tokens(1))) == [False]
    with pytest.raises(Unavailable):
        await dispatcher.depth(TYPE)
    with pytest.raises(Unavailable):
        await dispatcher.start()
    await dispatcher.close()


async def test_a_virtual_host_that_is_not_there_is_named_once(
    rabbitmq: RabbitVhost, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = urlsplit(rabbitmq.url)._replace(path="/nowhere").geturl()
    dispatcher = RabbitDispatcher(elsewhere, name="lost", connect_timeout=timedelta(seconds=1))
    with pytest.raises(Unavailable):
        await dispatcher.start()
    await dispatcher.close()
    host = urlsplit(rabbitmq.url).hostname
    refused = f"{host} refused virtual host 'nowhere': there is none, or not for this user"
    said = [message for message in caplog.messages if "broker link" in message]
    assert sorted(said) == [f"broker link lost {what}: {refused}" for what in ("consume", "publish")]


# -- the way without aiormq's insides


async def test_the_public_interface_of_the_library_gives_the_same_answers(
    dispatcher: RabbitDispatcher, monkeypatch: pytest.MonkeyPatch, other: aio_pika.abc.AbstractChannel
) -> None:
    monkeypatch.setattr(wire, "reachable", lambda channel: False)
    sent = tokens(20)
    inbox = Inbox()
    lane = await dispatcher.open_lane(TYPE, inbox)
    await lane.consume(10)
    assert await dispatcher.publish(dispatches(sent)) == [True] * 20
    await inbox.wait(10)
    await lane.ack(inbox.deliveries[:10])
    await inbox.wait(20)
    await lane.give_back(inbox.deliveries[10:])
    await inbox.wait(30)
    assert inbox.tokens == [*sent, *sent[10:]]
    await lane.close()
    await other.queue_delete(f"jobs.main.{TYPE}")
    assert await dispatcher.publish(dispatches(tokens(2))) == [True, True]
