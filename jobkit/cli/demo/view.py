"""What can be seen of the running system at one moment: answers of its API, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import grpc
from prometheus_client.parser import text_string_to_metric_families
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2_grpc, job_type_service_pb2_grpc
from selfheal.control.v1 import breaker_service_pb2 as breaker_api
from selfheal.control.v1 import job_type_service_pb2 as type_api

from jobkit.cli.demo.handlers import PAYMENT, THUMBNAIL
from jobkit.client.calls import Caller

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub
    from selfheal.control.v1.job_type_service_pb2_grpc import JobTypeServiceAsyncStub

FINISHED = "selfheal_jobs_finished_total"
Failures = (aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Flow:
    """One job type's jobs. `waiting` has the held ones in it."""

    waiting: int = 0
    held: int = 0
    running: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """`began` and `at`, when the look at it began and ended, in the loop's seconds."""

    began: float
    at: float
    breaker: breaker_pb2.Breaker
    flows: Mapping[str, Flow] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return breaker_pb2.BreakerState.Name(self.breaker.state).removeprefix("BREAKER_STATE_")

    @property
    def payments(self) -> Flow:
        return self.flows.get(PAYMENT, Flow())

    @property
    def thumbnails(self) -> Flow:
        return self.flows.get(THUMBNAIL, Flow())


class Looker:
    """Looks at the system through its control plane and its metrics. Calls raise JobClientError, aiohttp's errors,
    TimeoutError."""

    def __init__(self, control: grpc.aio.Channel, http: aiohttp.ClientSession, metrics: str) -> None:
        self._breakers: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(control)
        self._types: JobTypeServiceAsyncStub = job_type_service_pb2_grpc.JobTypeServiceStub(control)
        self._http = http
        self._metrics = metrics
        self._call = Caller(timeout=10)

    async def look(self) -> View:
        began = asyncio.get_running_loop().time()
        breaker = await self._call(self._breakers.GetBreaker, breaker_api.GetBreakerRequest(breaker=PAYMENT))
        types = await self._call(self._types.ListJobTypes, type_api.ListJobTypesRequest())
        done = await self._done()
        flows = {
            one.job_type: Flow(one.waiting_jobs, one.held_jobs, one.running_jobs, done.get(one.job_type, 0))
            for one in types.job_types
        }
        return View(began, asyncio.get_running_loop().time(), breaker.breaker, flows)

    async def _done(self) -> dict[str, int]:
        """Jobs that succeeded, by type."""
        async with asyncio.timeout(10), self._http.get(self._metrics) as answer:
            text = await answer.text()
        return {
            sample.labels["job_type"]: round(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == FINISHED and sample.labels["outcome"] == "succeeded"
        }
