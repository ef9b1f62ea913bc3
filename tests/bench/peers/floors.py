"""What no job system can be cheaper than: the bare drivers, doing one of a job's steps each, or all in series."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench import bare, load
from tests.bench.peers.contender import Place
from tests.bench.peers.course import FEWEST, LOADS, Pace, Score


@dataclass(frozen=True, kw_only=True)
class Floor(ABC):
    """`run` is one round, of at most `jobs` jobs a measurement."""

    name: str
    omits: str
    setup: str
    servers: Sequence[str]
    pins: Sequence[str] = ()

    @abstractmethod
    def run(self, place: Place, score: Score, loop: asyncio.Runner, jobs: int) -> None: ...


class RawRabbit(Floor):
    def run(self, place: Place, score: Score, loop: asyncio.Runner, jobs: int) -> None:
        url = place.urls["rabbitmq"]
        for width in load.WIDTHS:
            total = jobs // 20 if width == 1 else jobs // 2
            score(f"submit, {width} in flight", loop.run(bare.publish(url, total, width)))
        score("drain, no-op", loop.run(bare.consume(url, jobs, 250)))


class RawPostgres(Floor):
    def run(self, place: Place, score: Score, loop: asyncio.Runner, jobs: int) -> None:
        inserted, settled = loop.run(bare.batches(place.urls["postgres"], 5 * jobs))  # it is that fast
        score("submit, in bulk", inserted)
        score("drain, no-op", settled)


class RawGrpc(Floor):
    def run(self, place: Place, score: Score, loop: asyncio.Runner, jobs: int) -> None:
        with place.stand.echo() as address:
            for width in load.WIDTHS:
                total = jobs // 20 if width == 1 else jobs // 4
                span = loop.run(load.submit_singly(address, "bench", total, width))
                score(f"submit, {width} in flight", span)


class SerialChain(Floor):
    def run(self, place: Place, score: Score, loop: asyncio.Runner, jobs: int) -> None:
        loop.run(self._run(place, score, jobs))

    @staticmethod
    async def _run(place: Place, score: Score, jobs: int) -> None:
        async with bare.chain(place.urls["postgres"], place.urls["rabbitmq"]) as chain:
            (alone,) = await load.travel(chain, max(jobs // 20, FEWEST), 0)
            score("alone", alone)

            async def call(_: int) -> None:
                await chain()

            capacity = score("through", await load.in_flight(jobs // 8, 32, call))
            for percent in LOADS:
                pace = Pace.at(capacity * percent / 100)
                (span,) = await load.travel(chain, pace.total, pace.rate, pace.warm)
                score(f"at {percent} %", span)


RAW_RABBIT = RawRabbit(
    name="raw aio-pika",
    servers=("rabbitmq",),
    omits="A step of a job: no row, no outcome, nothing is run.",
    setup="Persistent and mandatory, each confirmed by itself, to a quorum queue; consumed with prefetch 250, each "
    "acknowledged by itself.",
)
RAW_POSTGRES = RawPostgres(
    name="raw PostgreSQL",
    servers=("postgres",),
    omits="A step of a job: nothing is sent, nothing is run.",
    setup="A copy of our own table with its indexes: inserts of 500 rows, then a claim and a settle of 500 each, 4 "
    "connections.",
)
RAW_GRPC = RawGrpc(
    name="bare grpc.aio",
    servers=(),
    omits="A step of a job: it answers the same message and stores nothing.",
    setup="One process of grpc.aio on uvloop, one connection.",
)
CHAIN = SerialChain(
    name="bare serial chain",
    servers=("rabbitmq", "postgres"),
    omits="One job's steps with nothing around them: no batches, no lease, no retry, no breaker.",
    setup="Insert, confirmed publish, delivery, claim, settle with the bare drivers; 8 connections, prefetch 16.",
)
FLOORS = (RAW_GRPC, RAW_RABBIT, RAW_POSTGRES, CHAIN)
