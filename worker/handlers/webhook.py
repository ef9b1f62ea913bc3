"""`webhook`: one signed HTTP request to a receiver of the submitter's choosing, who is not to be trusted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import aiohttp

from jobkit.domain.outcome import API_TIMEOUT, NETWORK_ERROR
from jobkit.handling import Handler, JobContext, Permanent, RetryLater, TransientError
from worker.handlers.fields import invalid
from worker.handlers.guard import AddressRefused, AllowList, GuardedResolver
from worker.handlers.request import Request, read_request

JOB_TYPE = "webhook"
ADDRESS_REFUSED = "ADDRESS_REFUSED"
READ_LIMIT = 64 * 1024  # bytes of a response that are read
KEPT = 4 * 1024  # bytes of it that are kept in the result
BODY_TIMEOUT = 5  # seconds
SECRET_PREFIX = "whsec_"  # noqa: S105 - of a secret in the form that the standard writes it


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """`secret` signs requests, as plain text or as `whsec_` and base64; without one they are not signed. `allow`
    lists hosts, `host:port`s, addresses and networks that may be reached though they are not public. `retry_scope` is
    whom a receiver's Retry-After speaks for: its own job, or the whole type where all go to one receiver."""

    secret: str = field(default="", repr=False)
    allow: tuple[str, ...] = ()
    timeout: timedelta = timedelta(seconds=30)
    connect_timeout: timedelta = timedelta(seconds=10)
    max_retry_after: timedelta = timedelta(hours=1)
    retry_scope: Literal["job", "type"] = "job"


class Webhook:
    """Sends `{url, method?, headers?, body?}`; the result is `{status, body}`. One session serves all jobs, from
    `start` to `stop`. Raises ValueError for settings that cannot work."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._key = signing_key(settings.secret)
        self._allow = AllowList.parse(settings.allow)
        self._guard: GuardedResolver | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def handler(self) -> Handler:
        return Handler(JOB_TYPE, self.send)

    async def start(self) -> None:
        """Open the session. Safe to repeat."""
        if self._session is not None:
            return
        self._guard = GuardedResolver(self._allow)
        seconds = self._settings.timeout.total_seconds()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=self._guard, limit=0, ttl_dns_cache=10),
            timeout=aiohttp.ClientTimeout(
                total=seconds, sock_connect=self._settings.connect_timeout.total_seconds()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # one receiver's cookies are none of the next job's
            auto_decompress=False,  # what is read is bounded, what it inflates to is not
            trust_env=False,  # a proxy would connect to what the guard has not seen
        )

    async def stop(self) -> None:
        """Close the session and what it resolves with. Safe to repeat, and before a start."""
        session, self._session = self._session, None
        guard, self._guard = self._guard, None
        if session is not None:
            await session.close()
        if guard is not None:
            await guard.close()

    async def send(self, job: JobContext) -> dict[str, Any]:
        """The handler itself."""
        if self._session is None or self._guard is None:
            raise RuntimeError("the webhook handler is not started")
        request = read_request(job.payload)
        try:
            self._guard.check_host(request.host, request.port)
            return await self._exchange(self._session, request, job.job_id)
        except AddressRefused as refused:
            raise Permanent(ADDRESS_REFUSED, f"payload.url {refused}") from refused
        except aiohttp.InvalidURL as error:
            raise invalid("payload.url", "is not a URL that can be requested") from error
        except aiohttp.ClientConnectionError:
            raise  # known to the executor: a timeout or a network error
        except aiohttp.ClientError as error:
            raise TransientError(NETWORK_ERROR, f"not a usable answer: {error}") from error

    async def _exchange(
        self, session: aiohttp.ClientSession, request: Request, job_id: str
    ) -> dict[str, Any]:
        headers = {**request.headers, **sign(self._key, job_id, int(time.time()), request.body)}
        async with session.request(
            request.method, request.url, data=request.body or None, headers=headers, allow_redirects=False
        ) as response:
            body = await _read(response)
            if not 200 <= response.status < 300:
                raise self._meaning(response, body)
            return {"status": response.status, "body": body}

    def _meaning(self, response: aiohttp.ClientResponse, body: str) -> Exception:
        status = response.status
        code = f"HTTP_{status}"
        message = f"{response.reason or ''}: {body[:500]}".strip(": ")
        if status == 408:
            return TransientError(API_TIMEOUT, message or "the receiver timed out")
        if status in (429, 503):
            wait = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
            # "At once" asks for no wait: taken at its word, it would be retried for ever, at no attempt's cost.
            if wait is not None and wait > timedelta(0):
                wait = min(wait, self._settings.max_retry_after)
                return RetryLater(wait, self._settings.retry_scope, message=code)
        return (TransientError if status == 429 or status >= 500 else Permanent)(code, message)


async def _read(response: aiohttp.ClientResponse) -> str:
    """The beginning of the body. Once the status is known a broken body changes nothing: the receiver has
    decided, and to ask again would be to deliver twice."""
    kept = bytearray()
    read = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while read < READ_LIMIT and (chunk := await response.content.read(READ_LIMIT - read)):
                read += len(chunk)
                kept += chunk[: KEPT - len(kept)]
    except (aiohttp.ClientError, OSError):  # a timeout is an OSError
        response.close()
    if not response.content.at_eof():
        response.close()  # or leaving the block would read on, for as long as the receiver likes
    return kept.decode("utf-8", "replace")


def signing_key(secret: str) -> bytes | None:
    """The bytes to sign with; None for no secret. Raises ValueError when `whsec_` is not followed by base64."""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode() or None
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True) or None
    except ValueError as error:
        raise ValueError("a webhook secret that begins with whsec_ must go on in base64") from error


def sign(key: bytes | None, job_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of the Standard Webhooks specification (standardwebhooks.com), `timestamp` in Unix seconds. The
    id is the job's, so that a receiver can drop what it has seen."""
    headers = {"webhook-id": job_id, "webhook-timestamp": str(timestamp)}
    if key is not None:
        digest = hmac.new(key, f"{job_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def retry_after(value: str, now: datetime) -> timedelta | None:
    """A Retry-After header: seconds or an HTTP date (RFC 9110 §10.2.3); None when it is absent or unreadable."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return timedelta(seconds=min(int(value[:12]), 10**9))
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)) - now
