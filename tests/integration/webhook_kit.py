"""A receiver of webhooks, and ways to send to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from jobkit.domain.outcome import Outcome
from jobkit.handling import JobContext
from worker.handlers.webhook import Webhook, WebhookSettings
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
