"""The bulk publisher: batches, each confirmed message by message. What is not known to be safe is not safe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from aiormq.abc import AbstractChannel

from jobkit.adapters.rabbitmq import names
from jobkit.adapters.rabbitmq.codec import Outgoing, text
from jobkit.adapters.rabbitmq.deaf import DeafQueues
from jobkit.adapters.rabbitmq.link import Link
from jobkit.adapters.rabbitmq.topology import INTAKE, Declared, Piece
from jobkit.adapters.rabbitmq.wire import Answer, BulkPublisher, bulk_publisher
from jobkit.domain.errors import Unavailable

log = logging.getLogger(__name__)

CHUNK = 500  # messages in one write: about 150 kB
CHUNKS_IN_FLIGHT = 8  # written and not yet confirmed, over all callers


class Publisher:
    """Publishes over one link, declaring what is missing on the way."""

    def __init__(self, link: Link, *, confirm_timeout: float) -> None:
        self._link = link
        self._timeout = confirm_timeout
        self._declared = Declared()
        self._channel: AbstractChannel | None = None
        self._bulk: BulkPublisher | None = None
        self._declaring: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._room = asyncio.Semaphore(CHUNKS_IN_FLIGHT)
        self._deaf = DeafQueues(link, confirm_timeout)

    async def publish(self, messages: Sequence[Outgoing], pieces: Sequence[Sequence[Piece]]) -> list[bool]:
        """In order, one answer each: True once confirmed. `pieces[i]` is what message i needs declared.

        Never raises for the broker's sake; while it blocks us it is not asked. An unroutable message is published
        once more after its pieces were declared again: somebody deleted a queue that we remembered.
        """
        answers = await self._attempt(messages, pieces)
        lost = [i for i, answer in enumerate(answers) if answer is Answer.UNROUTABLE]
        if lost:
            self._declared.forget(piece for i in lost for piece in pieces[i])
            again = await self._attempt([messages[i] for i in lost], [pieces[i] for i in lost])
            for i, answer in zip(lost, again, strict=True):
                answers[i] = answer
        failed = sum(answer is not Answer.CONFIRMED for answer in answers)
        if failed:
            await self._look_for_deaf(answers, pieces)
            log.warning("%d of %d messages were not confirmed", failed, len(answers))
        return [answer is Answer.CONFIRMED for answer in answers]

    async def doubt(self, piece: Piece) -> None:
        """The queue gave no answer, although the broker did."""
        if await self._deaf.doubt(piece.queue):
            self._declared.forget([piece])

    async def _look_for_deaf(self, answers: Sequence[Answer], pieces: Sequence[Sequence[Piece]]) -> None:
        """A message lies on the queue of its last piece: its rung's, or its type's."""
        for answer, needed in zip(answers, pieces, strict=True):
            if answer is Answer.CONFIRMED:
                self._deaf.heard(needed[-1].queue)
        if self._link.up and not self._link.blocked:
            silent = {needed[-1] for a, needed in zip(answers, pieces, strict=True) if a is Answer.UNKNOWN}
            await asyncio.gather(*(self.doubt(piece) for piece in silent))

    async def _attempt(self, messages: Sequence[Outgoing], pieces: Sequence[Sequence[Piece]]) -> list[Answer]:
        if self._link.blocked:
            return [Answer.UNKNOWN] * len(messages)
        try:
            bulk = await self._ready(dict.fromkeys(piece for needed in pieces for piece in needed))
        except Unavailable as error:
            log.warning("cannot publish: %s", error.__cause__ or error)
            return [Answer.UNKNOWN] * len(messages)
        chunks = [messages[at : at + CHUNK] for at in range(0, len(messages), CHUNK)]
        if len(chunks) == 1:
            return await self._chunk(bulk, messages)
        return [answer for answers in await self._chunks(bulk, chunks) for answer in answers]

    async def _chunks(self, bulk: BulkPublisher, chunks: Iterable[Sequence[Outgoing]]) -> list[list[Answer]]:
        # Tasks begin in the order of their making and the semaphore is fair: the order of the batch is kept.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._chunk(bulk, chunk)) for chunk in chunks]
        return [task.result() for task in tasks]

    async def _chunk(self, bulk: BulkPublisher, messages: Sequence[Outgoing]) -> list[Answer]:
        async with self._room:
            if bulk is not self._bulk or not self._link.up:  # given up while we waited for room
                return [Answer.UNKNOWN] * len(messages)
            answers = await bulk.publish(messages, self._timeout)
        if Answer.UNKNOWN in answers:
            await self._suspect()
        return answers

    async def _ready(self, pieces: Iterable[Piece]) -> BulkPublisher:
        """The current channel, with `pieces` declared. A closed channel may have been closed for a missing
        exchange, so everything is declared again with a new one."""
        channel, bulk = self._channel, self._bulk
        if bulk is None or channel is None or channel.is_closed or not self._link.up:
            bulk = await self._open()
        missing = self._declared.missing(pieces)
        if missing:
            await self._declare(missing)
        return bulk

    async def _open(self) -> BulkPublisher:
        async with self._opening:
            if self._bulk is None or self._channel is None or self._channel.is_closed or not self._link.up:
                self._channel = await self._link.channel(confirms=True)
                self._bulk = bulk_publisher(self._channel)
                self._declared.forget()
            return self._bulk

    async def _declare(self, pieces: Sequence[Piece]) -> None:
        # On a channel of its own: a refused declaration closes it, and must not fail batches under way.
        with self._link.calls():
            if self._declaring is None or self._declaring.is_closed:
                self._declaring = await self._link.channel()
            await self._declared.ensure(self._declaring, (INTAKE, *pieces), self._timeout)

    async def _suspect(self) -> None:
        """A batch got no answer. If the channel still looks open, either the broker is silent: connect anew; or it
        is one queue that is. (A broker that blocks us is not silent, and would block the next connection as well.)"""
        if self._link.blocked:
            log.warning("no confirmation within %.1f s: the broker blocks publishers", self._timeout)
        elif self._channel is not None and not self._channel.is_closed and self._link.up:
            log.warning("no confirmation within %.1f s", self._timeout)
            await self._link.answers()


def quarantined(body: bytes, headers: Mapping[str, object], content_type: str | None, queue: str) -> Outgoing:
    """The message that goes to the intake in place of one that could not be decoded. Whatever a foreign client
    put into its headers must not keep it from getting there: values out of the ordinary are sent as text."""
    kept = {
        key: value if isinstance(value, str | int | float) else text(value)
        for key, value in headers.items()
        if key != names.DELIVERY_COUNT
    }
    return Outgoing(
        names.DEFAULT_EXCHANGE,
        names.QUARANTINE,
        body,
        {**kept, names.ORIGIN: queue},
        "undecodable",
        content_type,
    )
