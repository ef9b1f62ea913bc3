"""Queues that the broker has and that nobody can use.

A quorum queue that was being declared when its node was killed may come back without a leader (seen on RabbitMQ
3.10): the broker lists it as running, answers every declare, and then neither confirms what is published to it nor
lets anybody consume, for ever. Such a queue is empty. Deleted and declared again it works.
"""

from __future__ import annotations

import logging
import time

from aiormq.exceptions import AMQPError

from jobkit.adapters.rabbitmq.link import Link, broker_errors, shut
from jobkit.domain.errors import Unavailable

log = logging.getLogger(__name__)

# Two doubts at least this far apart, and no further than that, are a verdict: one alone may be a slow disk.
APART_SECONDS, FORGET_SECONDS = 3.0, 60.0


class DeafQueues:
    """Counts doubts by queue. `timeout` in seconds bounds each call to the broker; a delete takes it five."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._doubts: dict[str, float] = {}
        self._busy: set[str] = set()

    def heard(self, queue: str) -> None:
        """It has answered."""
        if self._doubts:
            self._doubts.pop(queue, None)

    async def doubt(self, queue: str) -> bool:
        """The broker lives, and this queue of it gave no answer. True once the queue is gone: declare it again."""
        now = time.monotonic()
        since = self._doubts.get(queue)
        if since is None or now - since > FORGET_SECONDS:
            self._doubts[queue] = now
            return False
        if now - since < APART_SECONDS or queue in self._busy:
            return False
        self._busy.add(queue)
        try:
            return await self._replace(queue)
        except Unavailable as error:
            log.warning("queue %s gives no answer and cannot be replaced: %s", queue, error.__cause__)
            return False
        finally:
            self._busy.discard(queue)

    async def _replace(self, queue: str) -> bool:
        channel = await self._link.channel()
        try:
            with broker_errors():
                found = await channel.queue_declare(queue, passive=True, timeout=self._timeout)
                if found.message_count:
                    log.warning("queue %s gives no answer; it is not empty, so it stays", queue)
                    return False
                await channel.queue_delete(queue, timeout=self._timeout)
        except AMQPError as error:
            log.warning("queue %s gives no answer and cannot be replaced: %s", queue, error)
            return False
        finally:
            if not channel.is_closed:
                with broker_errors():
                    await shut(channel, self._timeout)
        log.warning("queue %s gave no answer and was deleted, to be declared anew", queue)
        self._doubts.pop(queue, None)
        return True
