"""The gRPC and the REST door of the same servicers, over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf import json_format
from grpc_status import rpc_status
from openapi_spec_validator import validate
from selfheal.jobs.v1 import job_pb2, job_service_pb2
from yarl import URL

from jobkit.domain.errors import NotFound
from jobkit.rpc.details import error_details, from_rpc_error
from tests.integration.gateway_kit import FAILURES, Component, component

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def both() -> AsyncIterator[Component]:
    async with component() as started:
        yield started


@pytest.fixture
async def web(both: Component) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(both.http.url) as session:
        yield session


async def call(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> tuple[int, dict[str, Any], Any]:
    url = URL(f"{session._base_url}".rstrip("/") + path, encoded=True)
    async with session.request(method, url, **options) as response:
        return response.status, await response.json(), response.headers


def reason_and_fields(body: dict[str, Any]) -> tuple[str, dict[str, str]]:
    details = {detail["@type"].rsplit(".", 1)[1]: detail for detail in body["error"]["details"]}
    fields = {v["field"]: v["description"] for v in details.get("BadRequest", {}).get("fieldViolations", [])}
    return details["ErrorInfo"]["reason"], fields


@pytest.mark.parametrize("name", FAILURES)
async def test_both_doors_tell_the_same_error(both: Component, web: aiohttp.ClientSession, name: str) -> None:
    headers = {"traceparent": TRACEPARENT}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id=name), metadata=tuple(headers.items()))
    rich = rpc_status.from_call(caught.value)
    assert rich is not None
    status, body, answered = await call(web, "GET", f"/v1/jobs/{name}", headers=headers)
    assert body["error"]["details"] == json_format.MessageToDict(rich)["details"]
    assert body["error"]["message"] == rich.message
    assert body["error"]["status"] == caught.value.code().name
    assert body["error"]["code"] == status
    told = error_details(rich)
    assert told.metadata["trace_id"] == TRACEPARENT[3:35]
    retry = {"types": "60", "open": "3", "away": "1"}
    assert answered.get("Retry-After") == retry.get(name)
    assert "secret" not in json.dumps(body)


async def test_an_error_is_rebuilt_on_the_client(both: Component) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id="missing"))
    error = from_rpc_error(caught.value)
    assert isinstance(error, NotFound)
    assert (error.reason, str(error)) == ("JOB_NOT_FOUND", "job 'missing' not found")


async def test_a_server_that_is_away_is_an_error_too(both: Component) -> None:
    await both.rpc.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id="x"), timeout=2)
    assert from_rpc_error(caught.value).reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


async def test_a_body_becomes_a_request_and_a_response_json(
    both: Component, web: aiohttp.ClientSession
) -> None:
    sent = {"jobType": "email", "payload": {"n": 1, "x": 0.5, "deep": [{"a": None}]}, "max_attempts": 3}
    status, body, headers = await call(web, "POST", "/v1/jobs", json=sent)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert body["job"]["payload"] == sent["payload"]
    assert isinstance(body["job"]["payload"]["n"], int)  # 1, not 1.0
    assert body["job"]["state"] == "JOB_STATE_UNSPECIFIED"
    assert (body["existed"], body["job"]["attempts"], body["job"]["labels"]) == (False, 0, {})
    assert "lastError" not in body["job"]
    [request] = both.jobs.seen
    assert isinstance(request, job_service_pb2.SubmitJobRequest)
    assert (request.job_type, request.max_attempts) == ("email", 3)


async def test_the_query_becomes_a_request(both: Component, web: aiohttp.ClientSession) -> None:
    status, _, _ = await call(web, "GET", "/v1/jobs?pageSize=7&filter=state%20%3D%20QUEUED&page_token=t")
    assert status == 200
    assert both.jobs.seen == [
        job_service_pb2.ListJobsRequest(page_size=7, filter="state = QUEUED", page_token="t")
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a:b:reset", "a:b"),
        ("a%3Ab:reset", "a:b"),
        ("%40smtp:reset", "@smtp"),
        ("reset%3Areset:reset", "reset:reset"),
    ],
)
async def test_a_breaker_may_have_colons_in_its_name(
    web: aiohttp.ClientSession, path: str, name: str
) -> None:
    status, body, _ = await call(web, "POST", f"/v1/breakers/{path}", json={"reason": "tested"})
    assert (status, body["breaker"]["breaker"], body["breaker"]["errorCode"]) == (200, name, "tested")
    assert body["breaker"]["generation"] == str(2**60)
    status, body, _ = await call(web, "GET", f"/v1/breakers/{path.removesuffix(':reset')}")
    assert (status, body["breaker"]["breaker"]) == (200, name)


REFUSED: list[tuple[str, str, bytes, str, dict[str, str]]] = [
    ("POST", "/v1/jobs", b'{"jobType": "a", "when": 1, "payload": {"when": 1}}', "UNKNOWN_FIELD",
     {"when": "should not exist"}),
    ("POST", "/v1/jobs:batchSubmit", b'{"requests": [{"jobType": "a"}, {"job_typo": "b"}]}', "UNKNOWN_FIELD",
     {"requests[1].job_typo": "should not exist"}),
    ("POST", "/v1/jobs:batchSubmit", b'{"requests": [{"jobType": "a"}, {"jobType": 1}]}', "INVALID_FIELD",
     {"requests[1].job_type": "must be a string"}),
    ("POST", "/v1/jobs?jobType=a", b"{}", "UNKNOWN_FIELD", {"jobType": "should not exist"}),
    ("POST", "/v1/jobs", b'{"jobType": 1, "maxAttempts": 1.5, "payload": []}', "INVALID_FIELD",
     {"job_type": "must be a string", "max_attempts": "must be an integer of 32 bits",
      "payload": "must be an object"}),
    ("POST", "/v1/jobs", b'{"attemptTimeout": "soon", "labels": {"a": 1}, "onOpen": "MAYBE"}', "INVALID_FIELD",
     {"attempt_timeout": 'must be a duration such as "1.5s"',
      "labels": "must be an object whose values are a string",
      "on_open": "must be one of ON_OPEN_UNSPECIFIED, ON_OPEN_HOLD, ON_OPEN_REJECT"}),
    ("POST", "/v1/jobs", b'{"jobType": "a", "job_type": "b"}', "INVALID_FIELD", {"job_type": "must be given once"}),
    ("POST", "/v1/jobs", b'{"payload": {"a": [0, 1, 9007199254740993]}}', "INVALID_FIELD",
     {"payload.a[2]": "must be an integer within ±2^53"}),
    ("POST", "/v1/jobs", b"[]", "INVALID_FIELD", {"body": "must be a JSON object"}),
    ("POST", "/v1/jobs", b'{"payload": NaN}', "INVALID_FIELD",
     {"body": "malformed JSON: unexpected character, expected a JSON value: line 1 column 13 (char 12)"}),
    ("GET", "/v1/jobs", b"{}", "INVALID_FIELD", {"body": "must be empty"}),
    ("GET", "/v1/jobs?pageSize=many", b"", "INVALID_FIELD", {"page_size": "must be an integer of 32 bits"}),
    ("GET", "/v1/jobs?pageSize=1&page_size=2", b"", "INVALID_FIELD", {"page_size": "must be given once"}),
    ("GET", "/v1/jobs?state=x", b"", "UNKNOWN_FIELD", {"state": "should not exist"}),
    ("POST", "/v1/jobs/1:wait", b'{"jobId": "2"}', "INVALID_FIELD", {"job_id": "must be given once"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "sent", "reason", "fields"), REFUSED)
async def test_bad_input_is_refused_by_name(
    web: aiohttp.ClientSession, method: str, path: str, sent: bytes, reason: str, fields: dict[str, str]
) -> None:
    status, body, _ = await call(web, method, path, data=sent)
    assert (status, body["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert reason_and_fields(body) == (reason, fields)


async def test_unknown_paths_and_methods_are_told_in_this_doors_shape(web: aiohttp.ClientSession) -> None:
    status, body, _ = await call(web, "GET", "/v1/nothing")
    assert (status, body["error"]["status"], reason_and_fields(body)[0]) == (
        404,
        "NOT_FOUND",
        "PATH_NOT_FOUND",
    )
    status, body, headers = await call(web, "DELETE", "/v1/jobs")
    assert (status, body["error"]["status"], headers["Allow"]) == (405, "UNIMPLEMENTED", "GET, POST")
    assert reason_and_fields(body)[0] == "METHOD_NOT_ALLOWED"
    status, body, _ = await call(web, "POST", "/v1/jobs/1:discard", json={})
    assert (status, body["error"]["status"], reason_and_fields(body)[0]) == (
        501,
        "UNIMPLEMENTED",
        "METHOD_NOT_FOUND",
    )
    status, body, _ = await call(web, "GET", "/v1/jobs/%ff")
    assert status == 404


async def test_a_body_over_the_limit_is_a_readable_413(web: aiohttp.ClientSession) -> None:
    status, body, _ = await call(web, "POST", "/v1/jobs", data=io.BytesIO(b" " * (8 * 1024 * 1024 + 1)))
    assert (status, body["error"]["status"]) == (413, "INVALID_ARGUMENT")
    assert reason_and_fields(body)[0] == "PAYLOAD_TOO_LARGE"


async def test_unimplemented_and_unknown_rpcs_have_details_too(both: Component) -> None:
    unknown = both.channel.unary_unary(
        "/selfheal.jobs.v1.JobService/Nothing",
        request_serializer=lambda message: message,
        response_deserializer=lambda data: data,
    )
    for made in (unknown(b""), both.stub.CancelJob(job_service_pb2.CancelJobRequest())):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await made
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert from_rpc_error(caught.value).reason == "METHOD_NOT_FOUND"


async def test_the_trace_and_the_request_id_reach_the_servicer_through_both_doors(
    both: Component, web: aiohttp.ClientSession
) -> None:
    sent = {"traceparent": TRACEPARENT, "x-request-id": "req-1", "authorization": "k"}
    made = both.stub.SubmitJob(job_service_pb2.SubmitJobRequest(), metadata=tuple(sent.items()))
    await made
    assert (both.jobs.trace, both.jobs.request_id) == (TRACEPARENT, "req-1")
    assert dict(await made.initial_metadata())["x-request-id"] == "req-1"
    assert dict(await made.trailing_metadata())["x-request-id"] == "req-1"
    both.jobs.trace = both.jobs.request_id = ""
    _, _, headers = await call(web, "POST", "/v1/jobs", json={}, headers=sent)
    assert (both.jobs.trace, both.jobs.request_id) == (TRACEPARENT, "req-1")
    assert headers["X-Request-ID"] == "req-1"
    assert both.jobs.metadata["authorization"] == "k"
    await both.stub.SubmitJob(job_service_pb2.SubmitJobRequest())
    assert both.jobs.trace.endswith("-00")
    assert both.jobs.request_id == ""


async def test_the_bound_on_calls_in_flight_spans_both_doors() -> None:
    async with component(max_in_flight=1) as both, aiohttp.ClientSession(both.http.url) as web:
        waiting = asyncio.ensure_future(both.stub.WaitJob(job_service_pb2.WaitJobRequest(job_id="1")))
        await both.jobs.waiting.wait()
        status, body, headers = await call(web, "GET", "/v1/jobs/1")
        assert (status, body["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert reason_and_fields(body)[0] == "TOO_MANY_REQUESTS"
        assert headers["Retry-After"] == "1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id="1"))
        assert from_rpc_error(caught.value).reason == "TOO_MANY_REQUESTS"
        both.jobs.release.set()
        assert (await waiting).job == job_pb2.Job(job_id="1")
        await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id="1"))
        assert both.door.in_flight == 0


async def test_a_caller_that_goes_away_cancels_its_call(both: Component, web: aiohttp.ClientSession) -> None:
    asking = asyncio.ensure_future(call(web, "POST", "/v1/jobs/1:wait", json={}))
    await both.jobs.waiting.wait()
    asking.cancel()
    await asyncio.wait_for(both.jobs.cancelled.wait(), 5)
    assert both.door.in_flight == 0


async def test_calls_are_counted_by_method_and_code(both: Component, web: aiohttp.ClientSession) -> None:
    await call(web, "GET", "/v1/jobs/1")
    await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id="1"))
    await call(web, "GET", "/v1/jobs/missing")
    await call(web, "GET", "/v1/made/up")

    def count(name: str, **labels: str) -> float | None:
        return both.registry.get_sample_value(f"{name}_count", labels)

    rpc = "rpc_server_call_duration_seconds"
    method = "selfheal.jobs.v1.JobService/GetJob"
    assert count(rpc, rpc_method=method, rpc_response_status_code="OK") == 2
    assert count(rpc, rpc_method=method, rpc_response_status_code="NOT_FOUND") == 1
    http = "http_server_request_duration_seconds"
    route = {
        "http_request_method": "GET",
        "http_route": "/v1/jobs/{job_id}",
        "http_response_status_code": "200",
    }
    assert count(http, **route) == 1
    assert count(http, **(route | {"http_route": "", "http_response_status_code": "404"})) == 1


async def test_the_description_is_valid_and_complete(web: aiohttp.ClientSession) -> None:
    _, document, _ = await call(web, "GET", "/openapi.json")
    validate(document)
    assert document["paths"]["/v1/jobs/{jobId}:cancel"]["post"]["operationId"] == "JobService_CancelJob"
    listing = document["paths"]["/v1/jobs"]["get"]["parameters"]
    assert [(p["name"], p["in"]) for p in listing] == [
        ("pageSize", "query"),
        ("pageToken", "query"),
        ("filter", "query"),
    ]
    assert document["paths"]["/v1/breakers/{breaker}"]["get"]["parameters"][0]["in"] == "path"
    async with web.get("/docs") as page:
        text = await page.text()
        assert page.content_type == "text/html"
    assert "/v1/breakers/{breaker}:reset" in text
    assert "http://" not in text
    assert "https://" not in text
