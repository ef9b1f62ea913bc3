"""Publishing tokens without a second write per job.

A row names its publisher's session. Once a second the publisher writes one row of its own: a beat, and the smallest
job id whose publish is not settled. When the beat stops, a reconciler publishes that session's rows from that id on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from uuid import UUID

from jobkit.domain.errors import Unavailable
from jobkit.ports import Dispatch, Dispatcher, Sessions
from jobkit.runtime.batcher import Batcher, Rhythm
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.messaging import MessagingMetrics

_log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
UNWRITTEN_SECONDS = 2.0
# What follows a batch need not wait for its confirmation: that is a disk's time, and the order is kept anyhow.
UNCONFIRMED_SECONDS = 0.001
# More unsettled tokens than this, and new rows are left to the overdue reconciler: memory stays bounded.
MAX_UNSETTLED = 50_000


class Publisher:
    """One session: from `start` to `stop` it answers for the tokens of the rows that name it."""

    def __init__(
        self,
        component: str,
        dispatcher: Dispatcher,
        sessions: Sessions,
        clock: DatabaseClock,
        new_id: Callable[[], UUID],
        messaging: MessagingMetrics | None = None,
    ) -> None:
        self._component = component
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._clock = clock
        self._new_id = new_id
        self._unsettled: set[UUID] = set()
        self._orphans: set[UUID] = set()
        self._taking = asyncio.Lock()
        self._tell = dispatcher.publish if messaging is None else messaging.counted(dispatcher.publish)
        # What is handed over together stays together, and weighs as much as it holds.
        self._batches: Batcher[Sequence[Dispatch], Sequence[bool]] = Batcher(
            self._publish_all, max_bytes=500, size=len, lanes=8, rhythm=Rhythm(late=UNCONFIRMED_SECONDS)
        )
        # Shared as well: a broker that goes away under load fails many publishes at once.
        self._disowning: Batcher[UUID, bool] = Batcher(self._orphan, max_items=500)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unwritten_since: float | None = None
        self.session = new_id()

    @property
    def open(self) -> bool:
        """Whether a new row may be QUEUED under this session; otherwise insert it PENDING."""
        return self._dispatcher.available and len(self._unsettled) < MAX_UNSETTLED

    def expect(self, ids: Iterable[UUID]) -> None:
        """Rows with these ids are about to be committed under this session: `confirmed_to` stays below them."""
        self._unsettled.update(ids)

    def forget(self, ids: Iterable[UUID]) -> None:
        """They were not committed after all."""
        self._unsettled.difference_update(ids)

    def disown(self, ids: Iterable[UUID]) -> None:
        """Nobody knows whether they were committed: with the next beat, rows that are there become nobody's."""
        self._orphans.update(ids)
        self._unsettled |= self._orphans

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        """Hold this while taking over old rows and until `expect` has heard of them: the taking transaction
        lowers `confirmed_to` itself, and no beat may raise it in between."""
        async with self._taking:
            yield

    def send(self, batch: Sequence[Dispatch]) -> None:
        """Publish in the background: the caller's answer does not wait for the broker."""
        task = asyncio.create_task(self._publish(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def publish(self, batch: Sequence[Dispatch]) -> None:
        """Publish, and return once each token is on the broker or its row is overdue: it will run either way."""
        self.expect(item.token.job_id for item in batch)
        await self._publish(batch)

    async def _publish(self, batch: Sequence[Dispatch]) -> None:
        (done,) = await asyncio.gather(self._batches.add(batch), return_exceptions=True)
        answers = [False] * len(batch) if isinstance(done, BaseException) else done
        ids = [item.token.job_id for item in batch]
        failed = [job_id for job_id, ok in zip(ids, answers, strict=True) if not ok]
        self._unsettled.difference_update(ids)
        self._unsettled.update(failed)
        self._orphans.update(failed)
        await self._disown(failed)

    async def _publish_all(self, batches: Sequence[Sequence[Dispatch]]) -> Sequence[Sequence[bool]]:
        """Those that wait together, as one."""
        if len(batches) == 1:
            return [await self._tell(batches[0])]
        done = iter(await self._tell([item for batch in batches for item in batch]))
        return [list(islice(done, len(batch))) for batch in batches]

    async def _disown(self, ids: Iterable[UUID]) -> None:
        """What the broker did not take becomes nobody's."""
        if waiting := [self._disowning.add(job_id) for job_id in ids]:
            await asyncio.gather(*waiting)

    async def _orphan(self, ids: Sequence[UUID]) -> Sequence[bool]:
        """While the database is away too, the ids stay unsettled and the next beat tries again."""
        try:
            await self._sessions.orphan(self.session, ids)
        except Unavailable as error:
            _log.debug("orphaning waits for the database: %s", error)
            return [False] * len(ids)
        self._orphans.difference_update(ids)
        self._unsettled.difference_update(ids)
        return [True] * len(ids)

    async def beat(self) -> None:
        """One row; run it every `BEAT_SECONDS`."""
        try:
            await self._disown(self._orphans)
            await self._write_beat()
        except Unavailable:
            self._unwritten_since = self._unwritten_since or self._clock.monotonic()
            raise
        self._unwritten_since = None

    async def _write_beat(self) -> None:
        async with self._taking:
            fresh = self._new_id()
            confirmed_to = min(self._unsettled, default=fresh)
            asked = self._clock.monotonic()
            now = await self._sessions.beat(self.session, self._component, min(confirmed_to, fresh))
            self._clock.adjust(now, asked)

    def check_writes(self) -> None:
        """Raises ConnectionError while beats cannot be written: a database that only answers questions (a full
        disk, a standby) is no use."""
        since = self._unwritten_since
        if since is not None and self._clock.monotonic() - since > UNWRITTEN_SECONDS:
            raise ConnectionError("takes no writes")

    async def stop(self) -> None:
        """Wait for what is being published, then say good-bye. Safe to repeat."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._disown(self._orphans)
        try:
            if not self._unsettled:
                await self._sessions.leave(self.session)
        except Unavailable as error:
            _log.warning("left without a good-bye, the reconciler will look: %s", error)
