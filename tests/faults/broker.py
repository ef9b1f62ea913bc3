"""A RabbitMQ node of our own, and the harm that an operator, an upgrade or an alarm does to it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity

from tests.servers import PrivateRabbit

BEHEAD = """
    Q = rabbit_misc:r(<<"%s">>, queue, <<"%s">>),
    {ok, X} = rabbit_amqqueue:lookup(Q),
    {N, _} = Id = amqqueue:get_pid(X),
    ok = ra:force_delete_server(quorum_queues, Id),
    Machine = {module, rabbit_fifo, #{name => N, queue_resource => Q}},
    ok = ra:start_server(quorum_queues, N, Id, Machine, [Id]).
"""
NAMED = re.compile(r"publishing (\d+) (\w+) tokens")


class Vhost:
    """One vhost of a private node. What does not need rabbitmqctl, which takes seconds, goes by AMQP."""

    def __init__(self, rabbit: PrivateRabbit) -> None:
        self.rabbit = rabbit
        self.name = f"fault_{uuid.uuid4().hex[:10]}"
        self.create()

    @property
    def url(self) -> str:
        return urlsplit(self.rabbit.url)._replace(path=f"/{self.name}").geturl()

    def create(self) -> None:
        self.rabbit.ctl("add_vhost", self.name)
        self.rabbit.ctl("set_permissions", "-p", self.name, "guest", ".*", ".*", ".*")

    def wipe(self) -> None:
        """Queues, exchanges, bindings and messages: all gone."""
        self.rabbit.ctl("delete_vhost", self.name)
        self.create()

    def close_connections(self) -> None:
        self.rabbit.ctl("close_all_connections", "--vhost", self.name, "a fault test")

    def alarm(self) -> None:
        """Memory alarm of the whole node: whoever publishes is blocked."""
        self.rabbit.ctl("set_vm_memory_high_watermark", "0.0000001")

    def fill_disk(self) -> None:
        """Disk alarm of the whole node, with the same effect."""
        self.rabbit.ctl("set_disk_free_limit", "900000GB")

    def calm(self) -> None:
        """Neither alarm."""
        self.rabbit.ctl("set_vm_memory_high_watermark", "0.8")
        self.rabbit.ctl("set_disk_free_limit", "50MB")

    def behead(self, queue: str) -> None:
        """Leave the queue as RabbitMQ 3.10 leaves one that was being declared when its node was killed: listed as
        running, without a leader, deaf for ever. What lay on it is gone."""
        self.rabbit.ctl("eval", BEHEAD % (self.name, queue))

    def listed(self, what: str, *columns: str) -> list[dict[str, Any]]:
        """rabbitmqctl's list of the vhost's queues, channels …"""
        where = ("-p", self.name) if what != "list_connections" else ()
        found: list[dict[str, Any]] = json.loads(
            self.rabbit.ctl(what, *where, "--formatter", "json", *columns)
        )
        return found

    def queues(self) -> list[str]:
        return [queue["name"] for queue in self.listed("list_queues", "name")]

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """A stranger's channel."""
        async with await aio_pika.connect(self.url, timeout=10) as connection:
            yield await connection.channel()

    async def purge(self, queues: Iterable[str]) -> int:
        """Take out what lies on `queues`; returns how many messages that were."""
        async with self.channel() as channel:
            purged = [await (await channel.get_queue(name)).purge() for name in queues]
        return sum(done.message_count or 0 for done in purged)

    async def delete_queues(self, queues: Iterable[str]) -> None:
        async with self.channel() as channel:
            for name in queues:
                await channel.queue_delete(name)

    async def delete_exchange(self, name: str) -> None:
        async with self.channel() as channel:
            await channel.exchange_delete(name)

    async def depth(self, queue: str) -> int:
        """Messages ready; 0 for a queue that does not exist."""
        async with self.channel() as channel:
            try:
                return (
                    await channel.declare_queue(queue, passive=True)
                ).declaration_result.message_count or 0
            except ChannelNotFoundEntity:
                return 0


def tokens_published(logs: Iterable[str], kind: str) -> int:
    """How many tokens the control planes said that they published, as "lost", "overdue", "orphaned", "abandoned"."""
    return sum(int(number) for log in logs for number, of in NAMED.findall(log) if of == kind)


def count(holds: Callable[[Any], bool], items: Iterable[Any]) -> int:
    return sum(1 for item in items if holds(item))
