"""The ledger's newest entries, read once a second for all watchers of this process, sooner when a signal says so."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from uuid import UUID

from jobkit.domain.errors import OutOfRange
from jobkit.domain.ledger import Entry, Stretch
from jobkit.host.ledger import CHANNEL
from jobkit.ports import History, Signals

POLL_SECONDS = 1.0
KEPT = 5_000  # entries in memory; a watcher further back reads the database
PAGE = 500


class Feed:
    """Watchers hold a revision each and nothing else: one that is slow costs no memory here, and goes on where it
    was, from the database if need be."""

    def __init__(self, history: History, signals: Signals) -> None:
        self._history = history
        self._entries: list[Entry] = []
        self._first: int | None = None  # all that follows it is in memory; None until the ledger was read
        self._head = 0
        self._hurried = asyncio.Event()
        self._grown = asyncio.Event()
        self.closed = False
        self._unlisten = signals.listen(CHANNEL, self._hear)

    def _hear(self, _revisions: Sequence[UUID]) -> None:
        self._hurried.set()

    async def follow(self) -> None:
        """Run in a loop of its own."""
        while True:
            await self.catch_up()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._hurried.wait()
            except TimeoutError:
                continue

    async def catch_up(self) -> None:
        """Read what has come since. Raises Unavailable, and OutOfRange when the ledger has been put back."""
        self._hurried.clear()
        if self._first is None:
            self._first = self._head = await self._history.head()
        while True:
            stretch = await self._read()
            self._entries += stretch.entries
            del self._entries[:-KEPT]
            if self._entries:
                self._first = self._entries[0].revision - 1
            grown, self._head = stretch.revision > self._head, stretch.revision
            if grown:
                self._wake()
            if len(stretch.entries) < PAGE:
                return

    async def _read(self) -> Stretch:
        try:
            return await self._history.after(self._head, None, PAGE)
        except OutOfRange:
            # The database was restored, or nobody could read it for longer than entries stay.
            self._entries, self._first = [], None
            raise

    def after(self, revision: int, breaker: str | None) -> Stretch | None:
        """What follows `revision`; None when the database has to say: not all of it is in memory, or it is ahead of
        us, because another replica was quicker or the database has been put back."""
        if self._first is None or not self._first <= revision <= self._head:
            return None
        begin = bisect_right(self._entries, revision, key=lambda entry: entry.revision)
        some = self._entries[begin : begin + PAGE]
        found = tuple(entry for entry in some if breaker in (None, entry.breaker))
        return Stretch(found, some[-1].revision if some else self._head)

    async def grows(self, revision: int, seconds: float) -> None:
        """Wait until there is more than `revision`, for `seconds`, or until the feed closes."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                while not self.closed and self._head <= revision:
                    await self._grown.wait()
        except TimeoutError:
            return

    def _wake(self) -> None:
        """Everyone who waits now; whoever comes later waits for the next."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def close(self) -> None:
        """End all watches, so that a drain need not wait for them. Safe to repeat."""
        self.closed = True
        self._unlisten()
        self._wake()
