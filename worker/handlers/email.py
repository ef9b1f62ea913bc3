"""`email`: one message by SMTP, over a connection of its own."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import aiosmtplib

from jobkit.handling import Handler, JobContext, Permanent, TransientError
from worker.handlers.message import Letter, compose

JOB_TYPE = "email"
GOODBYE = 2  # seconds

# Replies that speak of us and not of the message: authentication required, too weak, failed; encryption required.
_AUTH_REPLIES = frozenset({530, 534, 535, 538})


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """Where mail goes and as whom. `timeout` bounds each exchange with the server; no `username`, no login."""

    host: str
    port: int = 587
    username: str = ""
    password: str = field(default="", repr=False)
    security: Literal["starttls", "tls", "none"] = "starttls"
    from_address: str = ""
    timeout: timedelta = timedelta(seconds=20)
    tls: ssl.SSLContext | None = None


def email_handler(settings: SmtpSettings) -> Handler:
    """The handler of `email` jobs: `{to, subject, body, html?, from?, cc?, replyTo?}`, where `to` and `cc` take an
    address or a list of them. Its result is `{messageId, accepted, refused}`."""

    async def send_email(job: JobContext) -> dict[str, Any]:
        letter = compose(job, settings.from_address)
        refused = await _send(settings, letter)
        return {
            "messageId": letter.message["Message-ID"],
            "accepted": [address for address in letter.recipients if address not in refused],
            "refused": {a: {"code": reply.code, "message": reply.message} for a, reply in refused.items()},
        }

    return Handler(JOB_TYPE, send_email)


async def _send(settings: SmtpSettings, letter: Letter) -> dict[str, aiosmtplib.SMTPResponse]:
    """Returns the recipients that were refused while others were accepted. Connection errors and timeouts are left
    to the executor, which knows them."""
    client = aiosmtplib.SMTP(
        hostname=settings.host,
        port=settings.port,
        username=settings.username or None,
        password=settings.password or None,
        use_tls=settings.security == "tls",
        start_tls=settings.security == "starttls",
        tls_context=settings.tls,
        timeout=settings.timeout.total_seconds(),
    )
    try:
        await client.connect()
        refused, _ = await client.send_message(
            letter.message, sender=letter.sender, recipients=list(letter.recipients)
        )
        # The message is accepted: a server that is slow to part must not make it a timeout, and so a duplicate.
        with suppress(aiosmtplib.SMTPException):
            await client.quit(timeout=GOODBYE)
    except aiosmtplib.SMTPException as error:
        raise _meaning(error, letter) from error
    finally:
        client.close()
    return refused


def _meaning(error: aiosmtplib.SMTPException, letter: Letter) -> Exception:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        # While one of them may be accepted later, the job as a whole may be.
        refusals = error.recipients
        error = next((refusal for refusal in refusals if refusal.code < 500), refusals[0])
    if isinstance(error, aiosmtplib.SMTPResponseException):
        if isinstance(error, aiosmtplib.SMTPAuthenticationError) or error.code in _AUTH_REPLIES:
            return TransientError("SMTP_AUTH", error.message)
        final = error.code >= 500 and _blames_job(error, letter)
        return (Permanent if final else TransientError)(f"SMTP_{error.code}", error.message)
    if isinstance(error, TimeoutError | ConnectionError):
        return error
    if isinstance(error, aiosmtplib.SMTPNotSupported) and letter.international:
        return Permanent("SMTP_UNSUPPORTED", str(error))
    return TransientError("SMTP_UNSUPPORTED", str(error))  # no STARTTLS, no AUTH: not as configured


def _blames_job(error: aiosmtplib.SMTPResponseException, letter: Letter) -> bool:
    """A sender out of our own settings, like a greeting or a HELO that is refused, is the operator's to mend: its
    jobs must wait, not be thrown out."""
    if isinstance(error, aiosmtplib.SMTPSenderRefused):
        return not letter.default_sender
    return isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
