"""`webhook` against a real HTTP server on loopback, and against addresses that it must not reach."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from jobkit.domain.outcome import Deferred, Failed, Outcome
from jobkit.handling import JobContext, Permanent
from worker.handlers.guard import AddressRefused, AllowList, GuardedResolver, is_public
from worker.handlers.webhook import Webhook, WebhookSettings, retry_after, sign, signing_key
from worker.verdict import outcome_of_error

JOB_ID = "0199c0de-0000-7000-8000-000000000001"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Keeps what it gets, and answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[web.Request, bytes]] = []
        self.answer: Answer = self.ok
        self.port = 0

    async def ok(self, request: web.Request) -> web.Response:
        return web.Response(text="thanks")

    async def receive(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        return await self.answer(request)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def replies(self, status: int, **kwargs: Any) -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status, **kwargs)

        self.answer = answer


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    there = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", there.receive)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    there.port = runner.addresses[0][1]
    yield there
    await runner.cleanup()


Send = Callable[..., Awaitable[Any]]


async def sending(settings: WebhookSettings) -> AsyncIterator[Send]:
    webhook = Webhook(settings)
    await webhook.start()
    await webhook.start()

    async def send(url: str, **payload: Any) -> Any:
        context = JobContext(job_id=JOB_ID, job_type="webhook", payload={"url": url, **payload})
        return await webhook.handler.run(context)

    yield send
    await webhook.stop()
    await webhook.stop()


@pytest.fixture
async def send() -> AsyncIterator[Send]:
    async for send in sending(WebhookSettings(secret="s3cret", allow=("127.0.0.1",))):
        yield send


@pytest.fixture
async def guarded() -> AsyncIterator[Send]:
    """Allows nothing."""
    async for send in sending(WebhookSettings()):
        yield send


async def outcome(sent: Awaitable[Any]) -> Outcome:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is the question
        await sent
    return outcome_of_error(raised.value)


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


# -- what it must not reach ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "[::1]", "0.0.0.0", "[::]", "10.0.0.1", "172.16.5.4", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255", "2130706433", "127.1", "0x7f.1",
        "0x7f000001", "017700000001", "0177.0.0.1",
    ],
)  # fmt: skip
async def test_private_addresses_are_refused_however_they_are_written(guarded: Send, host: str) -> None:
    with pytest.raises(Permanent) as refused:
        await guarded(f"http://{host}:9/")
    assert refused.value.code in {"ADDRESS_REFUSED", "VALIDATION_ERROR"}


async def test_a_refusal_tells_no_address(receiver: Receiver, guarded: Send) -> None:
    with pytest.raises(Permanent) as refused:
        await guarded(f"http://localhost:{receiver.port}/")
    assert refused.value.message == "payload.url does not resolve to a public address"
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("allow", "reached"),
    [
        ("localhost", True),
        ("LocalHost:{port}", True),
        ("127.0.0.0/8", True),
        ("127.0.0.1", True),
        ("localhost:1", False),
        ("127.0.0.1:{port}", False),  # allowed by that name, and the job uses another
        ("10.0.0.0/8", False),
    ],
)
async def test_what_is_allowed_can_be_reached(receiver: Receiver, allow: str, reached: bool) -> None:
    settings = WebhookSettings(allow=(allow.format(port=receiver.port), "::1"))
    async for send in sending(settings):
        url = f"http://localhost:{receiver.port}/"
        if reached:
            assert (await send(url))["status"] == 200
        else:
            with pytest.raises((Permanent, aiohttp.ClientConnectionError)):
                await send(url)
    assert len(receiver.requests) == int(reached)


async def test_an_address_and_port_can_be_allowed(receiver: Receiver) -> None:
    async for send in sending(WebhookSettings(allow=(f"127.0.0.1:{receiver.port}",))):
        assert (await send(receiver.url()))["status"] == 200
        with pytest.raises(Permanent):
            await send(f"http://127.0.0.1:{receiver.port + 1}/")


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "host:port", "host:0", ":80"])
def test_an_allow_list_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=entry.replace("/", ".")):
        Webhook(WebhookSettings(allow=(entry,)))


class Names(AbstractResolver):
    """A name service whose every next answer is the next of `answers`."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.answers.pop(0)
        ]

    async def close(self) -> None: ...


async def test_a_name_that_changes_its_mind_is_checked_each_time() -> None:
    guard = GuardedResolver(
        AllowList(), Names(["93.184.215.14"], ["127.0.0.1"], ["10.0.0.1", "93.184.215.14"])
    )
    assert [found["host"] for found in await guard.resolve("rebind.example", 80)] == ["93.184.215.14"]
    with pytest.raises(AddressRefused):
        await guard.resolve("rebind.example", 80)
    assert [found["host"] for found in await guard.resolve("rebind.example", 80)] == ["93.184.215.14"]


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))
