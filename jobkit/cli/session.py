"""One command's conversation with a server, and how its errors are told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import grpc
import typer
from google.protobuf.message import Message

from jobkit.cli.output import clean
from jobkit.client.calls import Caller, open_channel, pages
from jobkit.client.errors import JobClientError

T = TypeVar("T")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

LARGEST_PAGE = 1_000
TIMEOUT = 30.0  # seconds for one call
PATIENCE = 2.0  # seconds to try again after a first failure: a person wants to know that the server is away


def converse(target: str, work: Callable[[grpc.aio.Channel, Caller], Awaitable[T]]) -> T:
    """Run `work` on a channel to `target`; an answer that is an error is told on stderr and exits with 1."""

    async def session() -> T:
        async with open_channel(target) as channel:
            return await work(channel, Caller(timeout=TIMEOUT, patience=PATIENCE))

    try:
        return asyncio.run(session())
    except JobClientError as error:
        tell(error, target)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def collect(
    call: Caller,
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    items: Callable[[Response], Iterable[T]],
    limit: int | None = None,
) -> list[T]:
    """What the pages of a list hold, `limit` items of it at most (from 1)."""
    found: list[T] = []
    bounded: Any = request
    if limit is not None:
        bounded.page_size = min(limit, LARGEST_PAGE)
    async for page in pages(call, method, request):
        found += items(page)
        if limit is None:
            continue
        if len(found) >= limit:
            break
        bounded.page_size = min(limit - len(found), LARGEST_PAGE)
    return found


def tell(error: JobClientError, target: str) -> None:
    """The message, then what else is known, a line each."""
    names = ", ".join(part for part in (error.code, error.reason) if part)
    lines = [f"error: {error.message} ({names})"]
    lines += [f"  {one.path}: {one.message}" for one in error.violations]
    if error.retry_after is not None:
        lines.append(f"  try again in {error.retry_after.total_seconds():g} s")
    lines += [f"  {key}: {value}" for key, value in sorted(error.metadata.items()) if value]
    if error.code == "UNAVAILABLE" and not error.reason:
        lines.append(f"  is a server running at {target}?")
    sys.stderr.write(clean("\n".join(lines)) + "\n")
