"""`email` against a real SMTP server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from jobkit.domain.outcome import Failed
from jobkit.handling import JobContext, Permanent
from worker.handlers.email import SmtpSettings, email_handler
from worker.verdict import outcome_of_error

JOB_ID = "0199c0de-0000-7000-8000-000000000001"


class Mailbox:
    """Takes mail, and answers a stage with what `replies` holds for it: sender, data, or a recipient."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.replies: dict[str, str] = {}

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self.replies.get("sender", "250 OK")

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.replies.get(address, "250 OK")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return self.replies.get("data", "250 OK")

    def newest(self) -> EmailMessage:
        content = self.envelopes[-1].content
        assert isinstance(content, bytes)
        return message_from_bytes(content, policy=policy.default)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    """A server on a free port (aiosmtpd cannot choose one itself)."""
    port = free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


Serve = Callable[..., int]


@pytest.fixture
async def serve(mailbox: Mailbox) -> AsyncIterator[Serve]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(mailbox, **options))


def settings(port: int, **changes: Any) -> SmtpSettings:
    plain: dict[str, Any] = {"security": "none", "from_address": "Jobs <jobs@example.org>", **changes}
    return SmtpSettings("127.0.0.1", port, **plain)


async def send(config: SmtpSettings, **payload: Any) -> Any:
    fields = {"to": "ann@example.com", "subject": "Hello", "body": "Hi", **payload}
    return await email_handler(config).run(JobContext(job_id=JOB_ID, job_type="email", payload=fields))


async def failure(config: SmtpSettings, **payload: Any) -> Failed:
    """What the executor makes of it."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is the question
        await send(config, **payload)
    outcome = outcome_of_error(raised.value)
    assert isinstance(outcome, Failed)
    return outcome


async def test_a_message_arrives_as_it_was_asked_for(mailbox: Mailbox, serve: Serve) -> None:
    result = await send(
        settings(serve()),
        to=["Ann Ö <ann@example.com>", "bob@bücher.example"],
        cc="carl@example.com",
        replyTo="help@example.org",
        subject="Grüße 👨‍👩‍👧",
        body="Hi\n.dot\n",
        html="<p>Hi</p>",
    )
    recipients = ["ann@example.com", "bob@xn--bcher-kva.example", "carl@example.com"]
    assert result == {"messageId": f"<{JOB_ID}@example.org>", "accepted": recipients, "refused": {}}
    envelope, message = mailbox.envelopes[0], mailbox.newest()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("jobs@example.org", recipients)
    assert message["From"] == "Jobs <jobs@example.org>"
    assert message["To"] == "Ann Ö <ann@example.com>, bob@xn--bcher-kva.example"
    assert (message["Cc"], message["Reply-To"]) == ("carl@example.com", "help@example.org")
    assert (message["Subject"], message["Message-ID"]) == ("Grüße 👨‍👩‍👧", f"<{JOB_ID}@example.org>")
    assert message["Date"].datetime.tzinfo is not None
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().splitlines() == ["Hi", ".dot"]
    assert html.get_content().strip() == "<p>Hi</p>"


async def test_a_job_may_name_its_own_sender(mailbox: Mailbox, serve: Serve) -> None:
    result = await send(settings(serve(), from_address=""), **{"from": "me@example.net"})
    assert result["messageId"] == f"<{JOB_ID}@example.net>"
    assert mailbox.envelopes[0].mail_from == "me@example.net"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"to": None}, "payload.to"),
        ({"to": []}, "payload.to"),
        ({"to": 5}, "payload.to"),
        ({"to": ["ann@example.com", None]}, "payload.to"),
        ({"to": "ann"}, "payload.to"),
        ({"to": "a@b.example, c@d.example"}, "payload.to"),
        ({"to": "ann@example.com\r\nBcc: eve@example.com"}, "payload.to"),
        ({"to": "Ann\n <ann@example.com>"}, "payload.to"),
        ({"to": "ann@" + "x" * 300}, "payload.to"),
        ({"to": "ann@" + "é" * 100}, "payload.to"),
        ({"to": [f"a{n}@example.com" for n in range(101)]}, "payload.to"),
        ({"cc": "@example.com"}, "payload.cc"),
        ({"replyTo": "x"}, "payload.replyTo"),
        ({"from": "x y@example.com"}, "payload.from"),
        ({"subject": None}, "payload.subject"),
        ({"subject": "a\r\nBcc: eve@example.com"}, "payload.subject"),
        ({"subject": "a\u2028b"}, "payload.subject"),
        ({"body": None}, "payload.body"),
        ({"body": {"a": 1}}, "payload.body"),
        ({"html": 1}, "payload.html"),
        ({"bcc": "eve@example.com"}, "payload.bcc"),
    ],
)
async def test_a_bad_payload_is_refused_before_anything_is_sent(payload: dict[str, Any], field: str) -> None:
    with pytest.raises(Permanent) as refused:
        await send(settings(1), **payload)
    assert refused.value.code == "VALIDATION_ERROR"
    assert refused.value.message.startswith(f"{field} ")


@pytest.mark.parametrize(
    ("replies", "code", "retryable"),
    [
        ({"ann@example.com": "550 no such user"}, "SMTP_550", False),
        ({"ann@example.com": "451 greylisted"}, "SMTP_451", True),
        ({"ann@example.com": "530 log in first"}, "SMTP_AUTH", True),
        ({"data": "554 spam"}, "SMTP_554", False),
        ({"data": "452 disk full"}, "SMTP_452", True),
        ({"sender": "553 not yours"}, "SMTP_553", True),  # ours: the operator's to mend
        ({"sender": "451 later"}, "SMTP_451", True),
    ],
)
async def test_a_refusal_says_whose_fault_it_is(
    mailbox: Mailbox, serve: Serve, replies: dict[str, str], code: str, retryable: bool
) -> None:
    mailbox.replies = replies
    outcome = await failure(settings(serve()))
    assert (outcome.error.code, outcome.error.retryable, outcome.counts) == (code, retryable, retryable)


async def test_a_sender_of_the_jobs_own_that_is_refused_is_the_jobs_fault(
    mailbox: Mailbox, serve: Serve
) -> None:
    mailbox.replies = {"sender": "553 not yours"}
    outcome = await failure(settings(serve()), **{"from": "me@example.net"})
    assert (outcome.error.code, outcome.error.retryable) == ("SMTP_553", False)


async def test_some_recipients_may_be_refused(mailbox: Mailbox, serve: Serve) -> None:
    mailbox.replies = {"bob@example.com": "550 no such user"}
    result = await send(settings(serve()), to=["ann@example.com", "bob@example.com"])
    assert result["accepted"] == ["ann@example.com"]
    assert result["refused"] == {"bob@example.com": {"code": 550, "message": "no such user"}}


async def test_when_all_are_refused_one_that_may_pass_later_keeps_the_job(
    mailbox: Mailbox, serve: Serve
) -> None:
    mailbox.replies = {"ann@example.com": "550 no such user", "bob@example.com": "450 busy"}
    outcome = await failure(settings(serve()), to=["ann@example.com", "bob@example.com"])
    assert (outcome.error.code, outcome.error.retryable) == ("SMTP_450", True)


async def test_a_server_that_is_away_is_a_network_error() -> None:
    assert (await failure(settings(free_port()))).error.code == "NETWORK_ERROR"
    assert (await failure(SmtpSettings("no.such.host.invalid", from_address="a@b.example"))).error.code == (
        "NETWORK_ERROR"
    )


async def test_a_server_that_is_silent_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = settings(silent.getsockname()[1], timeout=timedelta(milliseconds=100))
        assert (await failure(config)).error.code == "API_TIMEOUT"


async def test_a_server_that_is_slow_to_part_has_the_message_all_the_same(
    mailbox: Mailbox, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(server: SMTP, session: Session, envelope: Envelope) -> str:
        await asyncio.sleep(0.5)
        return "221 Bye"

    monkeypatch.setattr(mailbox, "handle_QUIT", hang, raising=False)
    monkeypatch.setattr("worker.handlers.email.GOODBYE", 0.05)
    assert (await send(settings(serve())))["accepted"] == ["ann@example.com"]


# -- logging in and encryption -------------------------------------------------------------------------------------


def only_ann(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"ann", b"secret"), handled=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate[1], certificate[0])
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[1]))


async def test_starttls_with_a_login(
    mailbox: Mailbox, serve: Serve, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    port = serve(tls_context=server_tls, authenticator=only_ann, auth_required=True, require_starttls=True)
    config = settings(port, security="starttls", username="ann", password="secret", tls=client_tls)
    assert (await send(config))["accepted"] == ["ann@example.com"]
    wrong = settings(port, security="starttls", username="ann", password="wrong", tls=client_tls)
    assert "wrong" not in repr(wrong)
    outcome = await failure(wrong)
    assert (outcome.error.code, outcome.error.retryable, outcome.counts) == ("SMTP_AUTH", True, True)
    nobody = await failure(settings(port, security="starttls", tls=client_tls))
    assert (nobody.error.code, nobody.error.retryable) == ("SMTP_AUTH", True)


async def test_tls_from_the_first_byte(
    mailbox: Mailbox, serve: Serve, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    port = serve(ssl_context=server_tls)
    assert (await send(settings(port, security="tls", tls=client_tls)))["accepted"] == ["ann@example.com"]


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_certificate_that_nobody_vouches_for_is_refused(
    mailbox: Mailbox, serve: Serve, server_tls: ssl.SSLContext, security: str
) -> None:
    port = serve(ssl_context=server_tls) if security == "tls" else serve(tls_context=server_tls)
    assert (await failure(settings(port, security=security))).error.code == "NETWORK_ERROR"
    assert mailbox.envelopes == []


async def test_mail_is_never_sent_in_the_clear_because_the_server_offers_nothing_else(
    mailbox: Mailbox, serve: Serve
) -> None:
    outcome = await failure(settings(serve(), security="starttls"))
    assert (outcome.error.code, outcome.error.retryable) == ("SMTP_UNSUPPORTED", True)
    assert mailbox.envelopes == []


async def test_a_foreign_mailbox_needs_a_server_that_takes_it(mailbox: Mailbox, serve: Serve) -> None:
    assert (await send(settings(serve(enable_SMTPUTF8=True)), to="jörg@example.com"))["accepted"] == [
        "jörg@example.com"
    ]
    with pytest.raises(Permanent) as refused:
        await send(settings(serve(enable_SMTPUTF8=False)), to="jörg@example.com")
    assert refused.value.code == "SMTP_UNSUPPORTED"
