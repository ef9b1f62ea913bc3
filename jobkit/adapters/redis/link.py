"""The way to one Redis: bounded in time, and with no error of the driver's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from jobkit.adapters.redis.script import Script
from jobkit.domain.errors import store_unavailable

_log = logging.getLogger(__name__)

Command = Sequence[str | int]
# uvloop raises a RuntimeError for a write to a transport that has been closed.
DRIVER_ERRORS = (RedisError, OSError, TimeoutError, RuntimeError)
SECOND = timedelta(seconds=1)
CONNECTIONS = 8  # commands are short: more would only queue in Redis instead of here


class RedisLink:
    """Pipelines to one server. A broken connection is replaced by the next call; nothing is sent twice, since
    a report that was added twice would be evidence that nobody saw."""

    def __init__(self, url: str, timeout: timedelta = SECOND, connect_timeout: timedelta = SECOND) -> None:
        self._patience = (timeout + connect_timeout).total_seconds()
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=self._patience,
            socket_timeout=timeout.total_seconds(),
            socket_connect_timeout=connect_timeout.total_seconds(),
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=True,
            encoding_errors="replace",  # somebody's bytes in one key must not hide the others
        )
        self._client: Redis = Redis(connection_pool=self._pool)
        self._away = False

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to `commands`, sent as one write and not as a transaction, so that they may go to any
        slots. A WRONGTYPE or NOSCRIPT is an answer; raises Unavailable for all else that is not."""
        with self._translated():
            async with asyncio.timeout(self._patience), self._client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
                for answer in answers:
                    if isinstance(answer, Exception) and not _is_answer(answer):
                        raise answer
        return answers

    async def script(
        self, script: Script, keys: Sequence[str], args: Command, beside: Sequence[Command] = ()
    ) -> Any:
        """The script's answer; `beside` are commands in the same pipeline, which harm nobody when repeated."""
        commands: list[Command] = [("EVALSHA", script.sha, len(keys), *keys, *args), *beside]
        answers = await self.run(commands)
        if isinstance(answers[0], NoScriptError):  # a new server, or one whose cache was flushed
            await self.run([("SCRIPT LOAD", script.text)])
            answers = await self.run(commands)
        if isinstance(answers[0], Exception):
            _log.error("a script failed in Redis: %s", answers[0])
            raise store_unavailable("redis") from answers[0]
        return answers[0]

    async def each(self, script: Script, calls: Sequence[tuple[Sequence[str], Command]]) -> list[Any]:
        """The script's answer to each (keys, args), in one round trip. What one of them fails with is its answer."""
        commands: list[Command] = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        answers = await self.run(commands)
        missed = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missed:  # a new server, or one whose cache was flushed; the others are done
            again = await self.run([("SCRIPT LOAD", script.text), *(commands[n] for n in missed)])
            for n, answer in zip(missed, again[1:], strict=True):
                answers[n] = answer
        return answers

    def pubsub(self) -> PubSub:
        """A subscription on a connection of its own. It raises the driver's errors: see `DRIVER_ERRORS`."""
        return self._client.pubsub()

    async def close(self) -> None:
        """Close every connection. Safe to repeat."""
        await self._client.aclose()
        await self._pool.disconnect()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            if not self._away:
                _log.warning("Redis is away: %s: %s", type(error).__name__, error)
            self._away = True
            raise store_unavailable("redis") from error
        if self._away:
            _log.info("Redis is back")
        self._away = False


def _is_answer(error: Exception) -> bool:
    wrong_type = isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
    return isinstance(error, NoScriptError) or wrong_type
