"""What is declared on the broker, in one place: any difference in arguments between two declarers would close
the channel of the second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiormq.abc import AbstractChannel

from jobkit.adapters.rabbitmq import names

# -1 makes RabbitMQ 3.x drop a token at its first return, none makes 3.10 requeue to the back and 4.x stop at 20.
DELIVERY_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A quorum queue, and the durable exchange that it is bound to; "" where there is none."""

    queue: str
    arguments: tuple[tuple[str, str | int], ...] = ()
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""


EXCHANGE = Piece("", exchange=names.JOBS)
INTAKE = Piece(names.QUARANTINE)


def main(job_type: str) -> Piece:
    """The queue of a job type."""
    limit = (("x-delivery-limit", DELIVERY_LIMIT),)
    return Piece(names.main_queue(job_type), limit, names.JOBS, "direct", job_type)


def rung(delay: int) -> Piece:
    """A delay of `delay` milliseconds. No dead-letter key: the token keeps its own, its job type. At most once
    on purpose: at-least-once lets one type's missing queue stop every type's retries."""
    arguments = (("x-message-ttl", delay), ("x-dead-letter-exchange", names.JOBS))
    return Piece(names.retry(delay), arguments, names.retry(delay), "fanout")


async def declare(channel: AbstractChannel, piece: Piece, timeout: float) -> None:
    """The one function that declares; repeating it is harmless. `timeout` in seconds, for each step."""
    if piece.exchange:
        await channel.exchange_declare(
            piece.exchange, exchange_type=piece.exchange_type, durable=True, timeout=timeout
        )
    if piece.queue:
        arguments: dict[str, Any] = {"x-queue-type": "quorum", **dict(piece.arguments)}
        await channel.queue_declare(piece.queue, durable=True, arguments=arguments, timeout=timeout)
    if piece.queue and piece.exchange:
        await channel.queue_bind(piece.queue, piece.exchange, piece.routing_key, timeout=timeout)


class Declared:
    """Remembers what one connection has declared, so that the hot path pays nothing for it."""

    def __init__(self) -> None:
        self._pieces: set[Piece] = set()
        self._lock = asyncio.Lock()

    def missing(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Those not yet declared, each once, in order."""
        return [piece for piece in dict.fromkeys(pieces) if piece not in self._pieces]

    async def ensure(self, channel: AbstractChannel, pieces: Iterable[Piece], timeout: float) -> None:
        """Declare what is missing."""
        async with self._lock:
            for piece in self.missing(pieces):
                await declare(channel, piece, timeout)
                self._pieces.add(piece)

    def forget(self, pieces: Iterable[Piece] | None = None) -> None:
        """Declare these again when they are used next; None: all of them."""
        if pieces is None:
            self._pieces.clear()
        else:
            self._pieces.difference_update(pieces)
