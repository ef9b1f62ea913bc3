"""Concurrent submits of one client share calls, and each caller gets its own answer all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import grpc
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from selfheal.control.v1 import breaker_pb2
from selfheal.jobs.v1 import job_service_pb2

from jobkit import JobClient
from jobkit.client import DeadlineExceeded, InvalidRequest, Job, RequestIdReused, Unavailable
from jobkit.client.shared import Answers, SharedSubmits
from jobkit.domain import errors
from tests.unit.fake_server import FakeServer


def sizes(server: FakeServer) -> list[int]:
    """Jobs of each call."""
    shared = job_service_pb2.BatchSubmitJobsRequest
    return [len(r.requests) if isinstance(r, shared) else 1 for r in server.memory.requests]


async def test_a_crowd_shares_calls(client: JobClient, server: FakeServer) -> None:
    jobs = await asyncio.gather(*(client.submit("email", {"n": n}) for n in range(100)))
    assert [job.payload["n"] for job in jobs] == list(range(100))
    assert len({job.job_id for job in jobs}) == 100
    assert sum(sizes(server)) == 100
    assert len(sizes(server)) < 10


async def test_a_lone_caller_makes_a_call_of_its_own(client: JobClient, server: FakeServer) -> None:
    await client.submit("email", {})
    assert isinstance(server.memory.requests[0], job_service_pb2.SubmitJobRequest)


async def test_each_of_a_crowd_gets_its_own_refusal(client: JobClient, server: FakeServer) -> None:
    await client.submit("email", {"n": 0}, request_id="used")
    server.memory.breakers["sms"] = breaker_pb2.Breaker(breaker="sms", state=breaker_pb2.BREAKER_STATE_OPEN)
    answers = await asyncio.gather(
        client.submit("not a type", {}),
        client.submit("email", {"n": 1}, request_id="used"),
        client.submit("email", {}, request_id="mine"),
        client.submit("sms", {}, on_open="reject"),
        return_exceptions=True,
    )
    assert [type(a) for a in answers] == [InvalidRequest, RequestIdReused, Job, Unavailable]
    assert isinstance(answers[1], RequestIdReused)
    assert answers[1].metadata["request_id"] == "used"
    assert sizes(server) == [1, 4]  # and who chose to be refused was not asked again


async def test_what_a_shared_call_refuses_for_now_is_tried_again() -> None:
    calls: list[int] = []
    away = Unavailable("UNAVAILABLE", "away", retry_after=timedelta(milliseconds=10))

    async def submit_all(requests: Sequence[job_service_pb2.SubmitJobRequest]) -> Answers:
        calls.append(len(requests))
        return [away if len(calls) == 1 and r.job_type == "b" else job(r.job_type) for r in requests]

    shared = SharedSubmits(submit_all, timeout=5, max_items=10, max_bytes=10_000)
    requests = [job_service_pb2.SubmitJobRequest(job_type=name) for name in "abc"]
    assert [j.job_type for j in await asyncio.gather(*map(shared.submit, requests))] == ["a", "b", "c"]
    assert calls == [3, 1]


async def test_who_waits_behind_calls_that_hang_is_told_in_time() -> None:
    released = asyncio.Event()

    async def hang(requests: Sequence[job_service_pb2.SubmitJobRequest]) -> Answers:
        await released.wait()
        return [job("email")]

    shared = SharedSubmits(hang, timeout=0.01, max_items=1, max_bytes=10_000)
    request = job_service_pb2.SubmitJobRequest(job_type="email")
    answers = await asyncio.gather(*(shared.submit(request) for _ in range(9)), return_exceptions=True)
    assert {type(a) for a in answers} == {DeadlineExceeded}
    released.set()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


async def test_a_crowd_outlasts_a_server_that_is_away_and_makes_each_job_once(
    client: JobClient, server: FakeServer
) -> None:
    server.memory.failures.extend([errors.store_unavailable("database", timedelta(milliseconds=20))] * 2)
    server.memory.lose_answers = 1
    jobs = await asyncio.gather(*(client.submit("email", {"n": n}) for n in range(20)))
    assert len({j.job_id for j in jobs}) == len(server.memory.jobs) == 20


async def test_a_crowd_hears_that_the_server_stays_away(server: FakeServer) -> None:
    server.memory.failures.extend([grpc.StatusCode.UNAVAILABLE] * 1000)
    async with JobClient(server.target, timeout=0.3) as client:
        answers = await asyncio.gather(
            *(client.submit("email", {}, request_id=f"r{n}") for n in range(5)), return_exceptions=True
        )
    assert {type(a) for a in answers} == {Unavailable}
    assert [a.metadata["request_id"] for a in answers if isinstance(a, Unavailable)] == [
        f"r{n}" for n in range(5)
    ]


async def test_jobs_of_different_traces_share_no_call(client: JobClient, server: FakeServer) -> None:
    async def submit(number: int) -> None:
        span = NonRecordingSpan(SpanContext(number, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
        with trace.use_span(span):
            await client.submit("email", {})

    await asyncio.gather(*(submit(number) for number in (1, 2, 3)))
    told = {str(m["traceparent"])[3:35] for m in server.memory.metadata}
    assert told == {f"{number:032x}" for number in (1, 2, 3)}


def job(job_type: str) -> Job:
    return Job(
        job_id="1", job_type=job_type, state="QUEUED", payload={}, labels={}, request_id="", attempts=0,
        deliveries=0, holds=0, max_attempts=None, progress=None, result=None, last_error=None, quarantine=None,
        create_time=None, update_time=None, start_time=None, finish_time=None, due_time=None, attempt_history=(),
        traceparent="", note="",
    )  # fmt: skip
