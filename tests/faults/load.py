"""Continuous submits that remember every job for which the API answered "accepted"."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc_status import rpc_status
from selfheal.control.v1 import breaker_service_pb2, breaker_service_pb2_grpc
from selfheal.jobs.v1 import job_service_pb2, job_service_pb2_grpc

from tests.system.client import read_status, submission
from tests.system.fleet import Fleet

if TYPE_CHECKING:
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

# How much of the load each handler of fault_handlers.py gets.
MIX: Mapping[str, float] = {"good": 0.55, "flaky": 0.15, "held": 0.1, "slow": 0.1, "plain": 0.1}
BATCH = 10
CALL_SECONDS = 10.0
GIVE_UP_SECONDS = 60.0
SENDERS = 8
REPEATED = 0.03  # the share of accepted submits that is sent once more
# A submit that may have reached the database or not, and is sent again with the same request_id. CANCELLED is what
# grpc itself answers in the instant in which a server closes.
UNSURE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)
# A dead address is tried again within half a second, not after minutes.
IMPATIENT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(slots=True)
class Accepted:
    """A job that the API accepted: `name` is its handler's, `at` is time.monotonic() of the answer."""

    job_id: str
    name: str
    request_id: str
    at: float
    unsure_before: int = 0
    existed: bool = False


@dataclass(slots=True)
class Refusals:
    """What was answered instead of "accepted", and which answers contradict each other."""

    codes: Counter[str] = field(default_factory=Counter)
    contradictions: list[str] = field(default_factory=list)
    without_retry_info: list[str] = field(default_factory=list)


class Load:
    """Submits `rate` jobs a second, half one by one and half in batches, while entered; `addresses` are job APIs
    (gRPC), the fleet's own unless given. While entered, the type "held" has its breaker open by hand."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        rate: float = 200.0,
        mix: Mapping[str, float] = MIX,
        addresses: Sequence[str] = (),
        payloads: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.fleet = fleet
        self.accepted: dict[str, Accepted] = {}
        self.refusals = Refusals()
        self.unresolved: dict[str, str] = {}  # request_id -> the last answer, given up on
        self._rate, self._mix, self._payloads = rate, mix, payloads or {}
        self._addresses = list(addresses) or [fleet.ports.grpc("jobapi")]
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()
        self._stopped = False
        self._senders: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()
        self._stubs: list[JobServiceAsyncStub] = []

    async def __aenter__(self) -> Self:
        for address in self._addresses:
            channel = grpc.aio.insecure_channel(address, options=IMPATIENT)
            self._stack.push_async_callback(channel.close)
            self._stubs.append(job_service_pb2_grpc.JobServiceStub(channel))
        self._began = time.monotonic()
        if "held" in self._mix:
            await self.hold()
        self._senders = [asyncio.create_task(self._send(number)) for number in range(SENDERS)]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:  # else the test has failed already, maybe with its servers away
                await self.stop()
        finally:
            for sender in self._senders:
                sender.cancel()
            await asyncio.gather(*self._senders, return_exceptions=True)
            await self._stack.aclose()

    async def stop(self) -> None:
        """No new submits; waits until each that was sent is answered for good, and lets the held type go. Safe to
        repeat; raises what a sender raised."""
        if self._stopped:
            return
        self._stopped = True
        await self.quiet()
        if "held" in self._mix:
            await self.release()

    async def quiet(self) -> None:
        """No new submits, as `stop`; the held type stays held."""
        self._stopping.set()
        await asyncio.gather(*self._senders)

    async def reach(self, jobs: int, timeout: float = 120.0) -> None:
        """Until so many are accepted."""
        deadline = time.monotonic() + timeout
        while len(self.accepted) < jobs:
            assert time.monotonic() < deadline, f"{len(self.accepted)} of {jobs}: {self.refusals}"
            for sender in self._senders:
                if sender.done():
                    sender.result()
            await asyncio.sleep(0.02)

    async def hold(self) -> None:
        """Open the breaker of the held type by hand."""
        request = breaker_service_pb2.OpenBreakerRequest(
            breaker=self.fleet.handled("held"), reason="a fault test"
        )
        await self._steer("OpenBreaker", request)

    async def release(self) -> None:
        """Close it again."""
        request = breaker_service_pb2.ResetBreakerRequest(breaker=self.fleet.handled("held"), reason="over")
        await self._steer("ResetBreaker", request)

    async def _steer(self, method: str, request: object) -> None:
        """Ask the control plane until it answers: it may be away, and the type may not have been seen yet."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        async with grpc.aio.insecure_channel(
            self.fleet.ports.grpc("controlplane"), options=IMPATIENT
        ) as channel:
            call = getattr(breaker_service_pb2_grpc.BreakerServiceStub(channel), method)
            while True:
                try:
                    await call(request, timeout=CALL_SECONDS)
                    return
                except grpc.aio.AioRpcError as error:
                    if (
                        error.code() not in {*UNSURE, grpc.StatusCode.NOT_FOUND}
                        or time.monotonic() > deadline
                    ):
                        raise
                    await asyncio.sleep(0.2)

    # -- submitting

    async def _send(self, number: int) -> None:
        batch = BATCH if number % 2 else 1
        pause = batch * SENDERS / self._rate
        next_at = time.monotonic() + random.random() * pause
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(next_at - time.monotonic(), 0.0))
                return
            next_at = max(next_at + pause, time.monotonic() - pause)  # a fault's backlog is not made up for
            names = random.choices(list(self._mix), list(self._mix.values()), k=batch)
            await self._submit([self._request(name) for name in names], random.choice(self._stubs))

    def _request(self, name: str) -> job_service_pb2.SubmitJobRequest:
        payload = {"n": next(self._numbers), **self._payloads.get(name, {})}
        return submission(self.fleet.handled(name), payload, request_id=uuid.uuid4().hex)

    async def _submit(
        self, requests: list[job_service_pb2.SubmitJobRequest], stub: JobServiceAsyncStub
    ) -> None:
        """Until each is accepted, or given up on."""
        deadline, unsure = time.monotonic() + GIVE_UP_SECONDS, 0
        while requests:
            left = await self._try(requests, stub, unsure)
            if not left:
                if random.random() < REPEATED:
                    await self._try(requests, random.choice(self._stubs), unsure)
                return
            requests, unsure = left, unsure + 1
            if time.monotonic() > deadline:
                self.unresolved.update({request.request_id: "given up" for request in requests})
                return
            await asyncio.sleep(min(0.05 * 2**unsure, 1.0))
            stub = random.choice(self._stubs)

    async def _try(
        self, requests: list[job_service_pb2.SubmitJobRequest], stub: JobServiceAsyncStub, unsure: int
    ) -> list[job_service_pb2.SubmitJobRequest]:
        """One call; returns those that were not accepted."""
        try:
            if len(requests) == 1:
                answer = await stub.SubmitJob(requests[0], timeout=CALL_SECONDS)
                self._note(requests[0], answer.job.job_id, unsure, answer.existed)
                return []
            batch = job_service_pb2.BatchSubmitJobsRequest(requests=requests)
            answers = await stub.BatchSubmitJobs(batch, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in UNSURE:
                raise
            self._note_refusal(error, len(requests))
            return requests
        left = []
        for request, result in zip(requests, answers.results, strict=True):
            if result.HasField("job"):
                self._note(request, result.job.job_id, unsure, False)
                continue
            code = next(c for c in grpc.StatusCode if c.value[0] == result.status.code)
            assert code in UNSURE, result.status
            self.refusals.codes[code.name] += 1
            left.append(request)
        return left

    def _note_refusal(self, error: grpc.aio.AioRpcError, jobs: int) -> None:
        self.refusals.codes[error.code().name] += jobs
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        if status is None:  # the channel's own: nobody answered
            return
        told = read_status(status, error.code())
        if told.retry is None:
            self.refusals.without_retry_info.append(f"{told.code.name}: {told.message}")

    def _note(
        self, request: job_service_pb2.SubmitJobRequest, job_id: str, unsure: int, existed: bool
    ) -> None:
        known = self.accepted.get(request.request_id)
        if known is None:
            name = request.job_type.removeprefix(f"{self.fleet.prefix}.")
            self.accepted[request.request_id] = Accepted(
                job_id, name, request.request_id, time.monotonic(), unsure, existed
            )
        elif known.job_id != job_id:
            told = f"{request.request_id} was answered {known.job_id} and then {job_id}"
            self.refusals.contradictions.append(told)
