"""Whatever is sent, the contract's answer comes back, byte for byte, and nothing is lost or blocked."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
import asyncpg
import grpc
import orjson
import pytest
from selfheal.jobs.v1 import job_service_pb2

from jobkit.rpc.convert import dict_to_struct
from tests.system.client import SUCCEEDED, Client, eventually, refused, submission
from tests.system.fleet import Fleet

EMPTY, TEXT, OBJECT = "jobType should not be empty", "jobType must be a string", "payload must be an object"
RULE = "jobType must be 1 to 128 characters, letters, digits and . _ : -, and start with a letter or a digit"
BAD_BODIES: list[tuple[Any, list[str]]] = [
    ({}, [EMPTY, TEXT, OBJECT]),
    ([], [EMPTY, TEXT, OBJECT]),
    ("text", [EMPTY, TEXT, OBJECT]),
    ({"jobType": "", "payload": {}}, [EMPTY]),
    ({"jobType": "  ", "payload": {}}, [EMPTY]),
    ({"jobType": 5, "payload": {}}, [TEXT]),
    ({"jobType": None, "payload": {}}, [EMPTY, TEXT]),
    ({"jobType": "", "payload": []}, [EMPTY, OBJECT]),
    ({"jobType": "a", "payload": None}, [OBJECT]),
    ({"jobType": "a", "payload": "text"}, [OBJECT]),
    ({"jobType": "a"}, [OBJECT]),
    ({"jobType": "*", "payload": {}}, [RULE]),
    ({"jobType": "a/b", "payload": {}}, [RULE]),
    ({"jobType": "é", "payload": {}}, [RULE]),
    ({"jobType": "a" * 129, "payload": {}}, [RULE]),
    ({"jobType": ":a", "payload": {}}, [RULE]),
    ({"jobType": "a", "payload": {}, "colour": 1}, ["property colour should not exist"]),
    ({"jobType": "a", "payload": {}, "priority": "HIGH"}, ["property priority should not exist"]),
    ({"jobType": "a", "payload": {}, "maxAttempts": 0}, ["maxAttempts must be between 1 and 100"]),
    ({"jobType": "a", "payload": {}, "maxAttempts": "3"}, ["maxAttempts must be a whole number"]),
    ({"jobType": "a", "payload": {}, "labels": {"a": 1}}, ["labels must be an object of strings"]),
    ({"jobType": "a", "payload": {}, "requestId": "a b"},
     ["requestId must be 1 to 128 printable ASCII characters without spaces"]),
    ({"jobType": "a", "payload": {"a": [{"n": 2**53 + 1}]}}, ["payload.a[0].n must be an integer within ±2^53"]),
]  # fmt: skip
MALFORMED = [
    b"{",
    b'{"jobType": "a", "payload": {}',
    b"nonsense",
    b'{"jobType": "a", "payload": {"n": NaN}}',
    b"\xff\xfe",
]
ODD_PAYLOADS: list[dict[str, Any]] = [
    {},
    {"nothing": None, "list": [None, [None, {"deep": None}]]},
    {"unicode": "äöü 漢字 🚀 \u0000 \u2028", "ключ": "значение", "": "empty key"},
    {"big": 2**53, "small": -(2**53), "float": 0.1, "tiny": 5e-324, "huge": 1e308, "minus": -0.0},
    {"text": "x" * 200_000},
    {"a.b": {"c/d": {"$ref": "__proto__", "'; DROP TABLE jobs; --": True}}},
]


@pytest.mark.parametrize(("body", "message"), BAD_BODIES, ids=lambda value: None)
async def test_a_bad_body_is_answered_with_every_mistake(
    client: Client, body: Any, message: list[str]
) -> None:
    answer = await client.http("POST", "jobapi/jobs", json=body)
    expected = orjson.dumps({"statusCode": 400, "message": message, "error": "Bad Request"})
    assert (answer.status, answer.body) == (400, expected)


async def test_broken_json_is_answered_with_a_string(client: Client) -> None:
    for body in MALFORMED:
        answer = await client.http("POST", "jobapi/jobs", data=body)
        assert (answer.status, list(answer.json)) == (400, ["statusCode", "message", "error"])
        assert answer.json["message"].startswith("malformed JSON: ")
    empty = await client.http("POST", "jobapi/jobs", data=b"")
    assert empty.json["message"] == [EMPTY, TEXT, OBJECT]


async def test_a_body_over_the_limit_is_answered_and_not_cut_off(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("large")
    for size in (270_000, 300_000, 900_000):
        answer = await client.http(
            "POST", "jobapi/jobs", json={"jobType": job_type, "payload": {"x": "y" * size}}
        )
        assert answer.status == 413
        assert (
            answer.body
            == b'{"statusCode":413,"message":"request entity too large","error":"Payload Too Large"}'
        )
    canonical = await client.http(
        "POST", "jobapi/v1/jobs", json={"jobType": job_type, "payload": {"x": "y" * 300_000}}
    )
    assert (canonical.status, canonical.json["error"]["status"]) == (413, "INVALID_ARGUMENT")
    refusal = await refused(client.submit(job_type, {"x": "y" * 300_000}))
    assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")
    assert not await client.listed(f'job_type = "{job_type}"')


async def test_unknown_paths_and_jobs_are_answered_as_before(client: Client) -> None:
    for method, path in (("GET", "nowhere"), ("GET", "jobs"), ("DELETE", "jobs"), ("PUT", "jobs/x")):
        answer = await client.http(method, f"jobapi/{path}")
        expected = {"message": f"Cannot {method} /{path}", "error": "Not Found", "statusCode": 404}
        assert (answer.status, answer.body) == (404, orjson.dumps(expected))
    for job_id in ("x", "01a2009a-92cf-7694-b088-1222992297dc", "%2e%2e"):
        answer = await client.http("GET", f"jobapi/jobs/{job_id}")
        assert (answer.status, answer.json["error"]) == (404, "Not Found")


async def test_grpc_names_every_field_that_is_wrong(client: Client) -> None:
    request = job_service_pb2.SubmitJobRequest(
        job_type="*", request_id="a b", max_attempts=0, labels={"a b": "x"}
    )
    request.attempt_timeout.FromSeconds(100_000)
    refusal = await refused(client.jobs.SubmitJob(request))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.info.reason == "INVALID_FIELD"
    assert set(refusal.fields) == {
        "job_type", "payload", "request_id", "max_attempts", "attempt_timeout", "labels.a b",
    }  # fmt: skip
    rest = await client.http("POST", "jobapi/v1/jobs", json={"jobType": "a", "payload": {}, "colour": 1})
    assert rest.status == 400
    assert "colour" in orjson.dumps(rest.json["error"]["details"]).decode()


async def test_odd_payloads_arrive_as_they_were_sent(client: Client, fleet: Fleet) -> None:
    job_type = fleet.handled("echo")
    for payload in ODD_PAYLOADS:
        rest = await client.post_job(job_type, payload)
        over_grpc = (await client.jobs.SubmitJob(submission(job_type, payload))).job.job_id
        for job_id in (rest, over_grpc):
            job = await client.settled(job_id)
            assert job.state == SUCCEEDED, job.last_error
            assert job.payload == dict_to_struct(payload)
            shown = await client.get(f"jobapi/jobs/{job_id}")
            assert shown["result"]["payload"] == payload


async def test_job_types_with_colons_and_dots_are_types_like_any_other(client: Client, fleet: Fleet) -> None:
    for name in ("a:b", "a.b", "a:b:c", "A-1_2", "x" * 90):
        job_type = fleet.job_type(name)
        await client.result(await client.post_job(job_type, {}))
        assert (await client.shown_breaker(job_type))["state"] == "CLOSED"
        assert (await client.get(f"controlplane/queues/{job_type}/stats"))["name"] == job_type
        answer = await client.http("POST", f"controlplane/breakers/{job_type}/reset")
        assert answer.json["jobType"] == job_type


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_what_cannot_be_decoded_is_filed_and_blocks_nobody(server_fleet: Fleet) -> None:
    fleet, job_type = server_fleet, server_fleet.job_type("garbage")
    garbage = [b"", b"\xff\xff\xff", b'{"pattern":"job.created","data":{}}', b"\x0a\x03abc\x12\x01x"]
    async with Client(fleet) as client:
        await client.result(await client.submit(job_type))
        connection = await aio_pika.connect(fleet.environ["RABBITMQ_URL"])
        async with connection:
            channel = await connection.channel()
            for number, body in enumerate(garbage):
                message = aio_pika.Message(
                    body, headers={"x-number": number}, content_type="application/x-protobuf"
                )
                await channel.default_exchange.publish(message, routing_key=f"jobs.main.{job_type}")

            jobs = await client.submit_many(job_type, 20)
            assert {(await client.settled(job_id)).state for job_id in jobs} == {SUCCEEDED}

            filed = await eventually(lambda: undecodable(fleet), lambda rows: len(rows) >= len(garbage))
            assert sorted(filed) == sorted(garbage)
            quarantine = await channel.get_queue("jobs.quarantine")
            declared = await channel.declare_queue("jobs.quarantine", passive=True)
            assert (quarantine.name, declared.declaration_result.message_count) == ("jobs.quarantine", 0)


async def undecodable(fleet: Fleet) -> list[bytes]:
    """What the control plane has filed."""
    connection = await asyncpg.connect(fleet.environ["DATABASE_URL"])
    try:
        return [row["body"] for row in await connection.fetch("SELECT body FROM undecodable")]
    finally:
        await connection.close()


async def test_nothing_sent_here_has_stopped_the_flow(client: Client, fleet: Fleet) -> None:
    jobs = await asyncio.gather(*(client.submit(fleet.job_type("after")) for _ in range(5)))
    for job_id in jobs:
        await client.result(job_id)
