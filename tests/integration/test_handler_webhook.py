"""`webhook` against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web

from jobkit.domain.outcome import Deferred, Failed
from jobkit.handling import JobContext, Permanent
from tests.integration.webhook_kit import (
    JOB_ID,
    Receiver,
    Send,
    outcome,
    sending,
)
from worker.handlers.webhook import Webhook, WebhookSettings, retry_after, sign, signing_key

# -- what is sent --------------------------------------------------------------------------------------------------


async def test_a_receiver_can_verify_what_it_gets(receiver: Receiver, send: Send) -> None:
    result = await send(receiver.url("/a?b=c%2Fd"), body={"n": 1}, headers={"X-Tenant": "t"})
    assert result == {"status": 200, "body": "thanks"}
    request, body = receiver.requests[0]
    assert (request.method, request.raw_path, body) == ("POST", "/a?b=c%2Fd", b'{"n":1}')
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Tenant"] == "t"
    stamp = request.headers["webhook-timestamp"]
    assert abs(int(stamp) - time.time()) < 5
    assert request.headers["webhook-id"] == JOB_ID
    digest = hmac.new(b"s3cret", f"{JOB_ID}.{stamp}.".encode() + body, hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_the_signature_is_that_of_the_standard() -> None:
    # The example of the Standard Webhooks libraries' own tests.
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets() -> None:
    assert signing_key("") is None
    assert signing_key("plain") == b"plain"
    with pytest.raises(ValueError, match="whsec_"):
        Webhook(WebhookSettings(secret="whsec_not base64"))
    assert "plain" not in repr(WebhookSettings(secret="plain"))
    assert "webhook-signature" not in sign(None, "id", 1, b"")


@pytest.mark.parametrize("method", ["PUT", "patch", "DELETE", "GET"])
async def test_other_methods_and_no_body(receiver: Receiver, send: Send, method: str) -> None:
    await send(receiver.url(), method=method)
    request, body = receiver.requests[0]
    assert (request.method, body) == (method.upper(), b"")


async def test_any_json_is_a_body(receiver: Receiver, send: Send) -> None:
    for body in (None, [1, "a"], "text", 5, False):
        await send(receiver.url(), body=body)
    assert [body for _, body in receiver.requests] == [b"null", b'[1,"a"]', b'"text"', b"5", b"false"]


async def test_cookies_of_one_job_are_not_sent_with_the_next(receiver: Receiver, send: Send) -> None:
    receiver.replies(200, headers={"Set-Cookie": "session=1"})
    await send(receiver.url())
    await send(receiver.url())
    assert "Cookie" not in receiver.requests[1][0].headers


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"url": None}, "payload.url"),
        ({"url": 1}, "payload.url"),
        ({"url": "/relative"}, "payload.url"),
        ({"url": "ftp://example.com"}, "payload.url"),
        ({"url": "file:///etc/passwd"}, "payload.url"),
        ({"url": "http://"}, "payload.url"),
        ({"url": "http://[::1"}, "payload.url"),
        ({"url": "http://example.com:99999"}, "payload.url"),
        ({"url": "http://a:b@example.com"}, "payload.url"),
        ({"url": "http://example.com/\r\nX: y"}, "payload.url"),
        ({"url": "http://example.com/a b"}, "payload.url"),
        ({"url": "http://example.com/" + "x" * 3000}, "payload.url"),
        ({"method": "CONNECT"}, "payload.method"),
        ({"method": 1}, "payload.method"),
        ({"method": "GET", "body": {}}, "payload.body"),
        ({"headers": []}, "payload.headers"),
        ({"headers": {"a b": "x"}}, "payload.headers"),
        ({"headers": {"X-A": 1}}, "payload.headers.X-A"),
        ({"headers": {"X-A": "a\r\nX-B: c"}}, "payload.headers.X-A"),
        ({"headers": {"Host": "internal"}}, "payload.headers.Host"),
        ({"headers": {"Webhook-Signature": "v1,x"}}, "payload.headers.Webhook-Signature"),
        ({"data": 1}, "payload.data"),
    ],
)
async def test_a_bad_payload_is_refused_and_named(send: Send, payload: dict[str, Any], field: str) -> None:
    with pytest.raises(Permanent) as refused:
        await send(**{"url": "http://127.0.0.1:1", **payload})
    assert refused.value.code == "VALIDATION_ERROR"
    assert refused.value.message.startswith(f"{field} ")


async def test_a_handler_that_was_not_started_says_so() -> None:
    webhook = Webhook(WebhookSettings())
    await webhook.stop()
    with pytest.raises(RuntimeError, match="not started"):
        await webhook.send(JobContext(job_id=JOB_ID, job_type="webhook", payload={}))


# -- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (408, "API_TIMEOUT", True),
        (429, "HTTP_429", True),
        (500, "HTTP_500", True),
        (503, "HTTP_503", True),
        (400, "HTTP_400", False),
        (404, "HTTP_404", False),
        (410, "HTTP_410", False),
        (302, "HTTP_302", False),
        (304, "HTTP_304", False),
    ],
)
async def test_statuses(receiver: Receiver, send: Send, status: int, code: str, retryable: bool) -> None:
    receiver.replies(status, headers={"Location": receiver.url("/elsewhere")})
    said = await outcome(send(receiver.url()))
    assert isinstance(said, Failed)
    assert (said.error.code, said.error.retryable, said.counts) == (code, retryable, retryable)
    assert len(receiver.requests) == 1  # redirects are not followed


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_may_ask_for_time(receiver: Receiver, send: Send, status: int) -> None:
    receiver.replies(status, headers={"Retry-After": "7"})
    assert await outcome(send(receiver.url())) == Deferred(timedelta(seconds=7), f"HTTP_{status}")
    receiver.replies(
        status, headers={"Retry-After": format_datetime(datetime.now(UTC) + timedelta(minutes=2))}
    )
    said = await outcome(send(receiver.url()))
    assert isinstance(said, Deferred)
    assert timedelta(seconds=115) < said.after <= timedelta(seconds=120)
    receiver.replies(status, headers={"Retry-After": "99999999999999999999"})
    said = await outcome(send(receiver.url()))
    assert isinstance(said, Deferred)
    assert said.after == timedelta(hours=1)


@pytest.mark.parametrize("value", ["0", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
async def test_a_wait_that_asks_for_none_costs_an_attempt(receiver: Receiver, send: Send, value: str) -> None:
    receiver.replies(503, headers={"Retry-After": value})
    said = await outcome(send(receiver.url()))
    assert isinstance(said, Failed)
    assert said.error.code == "HTTP_503"


@pytest.mark.parametrize("value", ["²", "Wed, 99 Oct 2015", "1e3", "Wed, 21 Oct 9999999 07:28:00 GMT"])
def test_an_unreadable_wait_is_none(value: str) -> None:
    assert retry_after(value, datetime.now(UTC)) is None


async def test_only_the_beginning_of_an_answer_is_read_and_kept(receiver: Receiver, send: Send) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"\xc3\xa4" * 8192)

    receiver.answer = endless
    result = await asyncio.wait_for(send(receiver.url()), 5)
    assert result["body"] == "ä" * 2048


async def test_a_body_that_breaks_off_does_not_undo_a_delivery(receiver: Receiver, send: Send) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"part")
        assert request.transport is not None
        request.transport.close()
        return response

    receiver.answer = broken
    assert await send(receiver.url()) == {"status": 200, "body": "part"}


async def test_a_compressed_answer_is_not_inflated(receiver: Receiver, send: Send) -> None:
    receiver.replies(200, body=b"\x1f\x8b bomb", headers={"Content-Encoding": "gzip"})
    assert "bomb" in (await send(receiver.url()))["body"]


async def test_a_receiver_that_is_away_is_a_network_error(send: Send) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        said = await outcome(send(f"http://127.0.0.1:{closed.getsockname()[1]}"))
    assert isinstance(said, Failed)
    assert (said.error.code, said.error.retryable) == ("NETWORK_ERROR", True)


async def test_a_receiver_that_hangs_up_is_a_network_error(receiver: Receiver, send: Send) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    receiver.answer = hang_up
    said = await outcome(send(receiver.url()))
    assert isinstance(said, Failed)
    assert said.error.code == "NETWORK_ERROR"


async def test_a_receiver_that_speaks_no_http_or_no_tls_is_a_network_error(
    receiver: Receiver, send: Send
) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 hello\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for scheme in ("http", "https"):
            said = await outcome(send(f"{scheme}://127.0.0.1:{port}"))
            assert isinstance(said, Failed)
            assert said.error.code == "NETWORK_ERROR"


async def test_a_receiver_that_is_silent_is_a_timeout(receiver: Receiver) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    receiver.answer = silent
    settings = WebhookSettings(allow=("127.0.0.0/8",), timeout=timedelta(milliseconds=100))
    async for send in sending(settings):
        said = await outcome(send(receiver.url()))
        assert isinstance(said, Failed)
        assert said.error.code == "API_TIMEOUT"
