"""JobClient over a real socket."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from selfheal.control.v1 import breaker_pb2
from selfheal.jobs.v1 import job_pb2, job_service_pb2

from jobkit import JobClient
from jobkit.client import (
    Exhausted,
    InvalidRequest,
    Job,
    JobClientError,
    NotFound,
    RequestIdReused,
    Submission,
    Unavailable,
    WrongState,
)
from jobkit.client import jobs as jobs_module
from jobkit.domain import errors
from tests.unit.fake_server import FakeServer


def away(seconds: float = 0.05) -> errors.Unavailable:
    return errors.store_unavailable("database", timedelta(seconds=seconds))


async def test_a_submitted_job_comes_back_as_plain_values(client: JobClient) -> None:
    payload = {"to": "a@b.c", "copies": 3, "rate": 0.5, "tags": ["x", None], "empty": {}}
    job = await client.submit("email", payload, labels={"team": "core"}, max_attempts=2, request_id="r-1")
    assert (job.state, job.payload, job.labels, job.max_attempts) == ("QUEUED", payload, {"team": "core"}, 2)
    assert isinstance(job.payload["copies"], int)
    assert job.request_id == "r-1"
    assert not job.existed
    assert not job.settled
    assert job.create_time is not None
    assert job.create_time.tzinfo is not None
    assert (await client.get(job.job_id)).job_id == job.job_id


async def test_every_field_of_a_submit_is_sent(client: JobClient, server: FakeServer) -> None:
    await client.submit("email", {}, attempt_timeout=1.5, on_open="reject")
    (request,) = server.memory.requests
    assert isinstance(request, job_service_pb2.SubmitJobRequest)
    assert request.attempt_timeout.ToTimedelta() == timedelta(seconds=1.5)
    assert request.on_open == job_pb2.ON_OPEN_REJECT
    assert not request.HasField("max_attempts")
    assert len(request.request_id) == 36


async def test_wait_returns_the_settled_job(client: JobClient) -> None:
    job = await client.submit("email", {})
    done = await client.wait(job.job_id, 5)
    assert done.succeeded
    assert done.result == {"sent": 1}
    assert done.attempt_history[0].worker_id == "worker-1"


async def test_wait_returns_a_job_that_needs_a_person(client: JobClient) -> None:
    job = await client.submit("broken", {})
    done = await client.wait(job.job_id, timedelta(seconds=5))
    assert done.settled
    assert not done.succeeded
    assert done.quarantine is not None
    assert done.quarantine.reason == "RETRIES_EXHAUSTED"
    assert done.last_error is not None
    assert done.last_error.code == "API_TIMEOUT"


async def test_wait_asks_again_until_its_timeout(client: JobClient, server: FakeServer) -> None:
    job = await client.submit("slow", {})
    with pytest.raises(TimeoutError, match=r"has not settled within 0\.7 s"):
        await client.wait(job.job_id, 0.7)
    assert len(server.memory.requests) > 2


async def test_wait_outlasts_a_server_that_is_away(client: JobClient, server: FakeServer) -> None:
    job = await client.submit("email", {})
    server.memory.failures.extend([away(), grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
    assert (await client.wait(job.job_id, 5)).succeeded


async def test_wait_for_an_unknown_job_fails_at_once(client: JobClient) -> None:
    with pytest.raises(NotFound):
        await client.wait("nonsense", 30)


async def test_list_follows_the_pages(client: JobClient) -> None:
    ids = [(await client.submit("email", {"n": n})).job_id for n in range(5)]
    found = [job.job_id async for job in client.list(page_size=2)]
    assert found == ids[::-1]
    assert [job async for job in client.list("state = SUCCEEDED")] == []
    with pytest.raises(InvalidRequest) as refused:
        await anext(client.list("state ="))
    assert refused.value.violations[0].path == "filter"


async def test_cancel_retry_and_discard(client: JobClient) -> None:
    job = await client.submit("broken", {"n": 1})
    with pytest.raises(WrongState) as refused:
        await client.retry(job.job_id)
    assert refused.value.reason == "JOB_NOT_QUARANTINED"
    await client.wait(job.job_id, 5)
    assert (await client.retry(job.job_id, {"n": 2})).payload == {"n": 2}
    await client.wait(job.job_id, 5)
    assert (await client.discard(job.job_id)).state == "DISCARDED"
    waiting = await client.submit("email", {})
    assert (await client.cancel(waiting.job_id)).state == "CANCELLED"


async def test_a_refusal_is_read_whole(client: JobClient, server: FakeServer) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.submit("not a type", {})
    error = refused.value
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error.violations[0].path == "job_type"
    assert error.metadata["request_id"]
    server.memory.failures.append(errors.Exhausted("full", reason="BACKLOG", retry_after=timedelta(hours=1)))
    with pytest.raises(Exhausted) as full:
        await client.submit("email", {})
    assert full.value.retry_after == timedelta(hours=1)
    assert isinstance(full.value, JobClientError)


async def test_a_request_id_with_other_content_is_refused(client: JobClient) -> None:
    await client.submit("email", {"n": 1}, request_id="r")
    assert (await client.submit("email", {"n": 1}, request_id="r")).existed
    with pytest.raises(RequestIdReused):
        await client.submit("email", {"n": 2}, request_id="r")


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"a": [1, {"b": 2**53 + 1}]}, "payload.a[1].b"),
        ({"a": float("nan")}, "payload.a"),
        ({"a": "\ud800"}, "payload.a"),
    ],
)
async def test_what_the_wire_would_change_is_refused_by_path(
    client: JobClient, server: FakeServer, payload: dict[str, object], path: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.submit("email", payload)
    assert refused.value.violations[0].path == path
    assert server.memory.requests == []


async def test_a_busy_server_is_asked_again_when_it_said(client: JobClient, server: FakeServer) -> None:
    server.memory.failures.extend([away(0.3), grpc.StatusCode.UNAVAILABLE])
    loop = asyncio.get_running_loop()
    began = loop.time()
    job = await client.submit("email", {})
    assert loop.time() - began >= 0.3
    assert job.state == "QUEUED"
    assert len({request.request_id for request in server.memory.requests}) == 1


async def test_a_lost_answer_does_not_make_two_jobs(client: JobClient, server: FakeServer) -> None:
    server.memory.lose_answers = 2
    job = await client.submit("email", {})
    assert job.existed
    assert list(server.memory.jobs) == [job.job_id]


async def test_an_unkeyed_call_is_not_repeated_when_its_answer_is_lost(
    client: JobClient, server: FakeServer
) -> None:
    job = await client.submit("email", {})
    server.memory.lose_answers = 1
    with pytest.raises(Unavailable):
        await client.cancel(job.job_id)
    server.memory.failures.append(away())
    with pytest.raises(WrongState):  # repeated, because the server said that it had done nothing
        await client.cancel(job.job_id)


async def test_the_deadline_bounds_the_repetitions(server: FakeServer) -> None:
    server.memory.failures.extend([grpc.StatusCode.UNAVAILABLE] * 100)
    loop = asyncio.get_running_loop()
    async with JobClient(server.target, timeout=0.5) as client:
        began = loop.time()
        with pytest.raises(Unavailable):
            await client.get("x")
        assert loop.time() - began < 0.7
        server.memory.failures.appendleft(away(60))
        with pytest.raises(Unavailable):
            await client.get("x")
        assert loop.time() - began < 0.8  # coming back is later than the deadline: not worth the wait


async def test_an_open_breaker_that_rejects_is_not_asked_again(client: JobClient, server: FakeServer) -> None:
    server.memory.breakers["email"].state = breaker_pb2.BREAKER_STATE_OPEN
    with pytest.raises(Unavailable) as refused:
        await client.submit("email", {}, on_open="reject")
    assert refused.value.reason == "BREAKER_OPEN"
    assert len(server.memory.requests) == 1
    held = await client.submit("email", {})
    assert (held.state, held.settled) == ("QUARANTINED", False)


async def test_a_server_that_comes_back_is_found() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with JobClient(f"127.0.0.1:{port}", timeout=10) as client:
        submitting = asyncio.create_task(client.submit("email", {}))
        await asyncio.sleep(0.5)
        with FakeServer(port):
            assert (await submitting).state == "QUEUED"


async def test_the_current_trace_travels_along(client: JobClient, server: FakeServer) -> None:
    await client.submit("email", {})
    assert "traceparent" not in server.memory.metadata[-1]
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        await client.submit("email", {})
    assert server.memory.metadata[-1]["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"


async def test_many_are_answered_one_by_one(
    client: JobClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "BATCH_ITEMS", 2)
    items = [Submission("email", {"n": n}) for n in range(3)]
    items.insert(1, Submission("not a type"))
    items.insert(2, Submission("email", {"n": float("inf")}))
    answers = await client.submit_many(items)
    assert [type(answer) for answer in answers] == [Job, InvalidRequest, InvalidRequest, Job, Job]
    assert [answer.payload["n"] for answer in answers if isinstance(answer, Job)] == [0, 1, 2]
    sizes = [len(request.requests) for request in server.memory.requests]
    assert sizes == [2, 2]


async def test_many_are_cut_by_size_too(client: JobClient, server: FakeServer) -> None:
    answers = await client.submit_many(Submission("email", {"text": "x" * 900_000}) for _ in range(5))
    assert all(isinstance(answer, Job) for answer in answers)
    assert len(server.memory.requests) == 3


async def test_many_say_what_was_not_accepted_when_the_server_goes_away(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "BATCH_ITEMS", 1)
    async with JobClient(server.target, timeout=0.2) as client:
        first = await client.submit_many([Submission("email", {}, request_id="a")])
        server.memory.failures.extend([grpc.StatusCode.UNAVAILABLE] * 50)
        rest = await client.submit_many([Submission("email", {}, request_id=key) for key in ("b", "c")])
    assert isinstance(first[0], Job)
    assert [answer.metadata["request_id"] for answer in rest if isinstance(answer, Unavailable)] == ["b", "c"]


async def test_a_client_outside_of_its_block_says_so(server: FakeServer) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await JobClient(server.target).get("x")
