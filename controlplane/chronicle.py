"""What operators can ask of the past: transitions and incidents, page by page, and a watch that misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta

from controlplane.breakers import BreakerDesk, BreakerView
from controlplane.feed import PAGE, Feed
from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound, Unavailable
from jobkit.domain.ledger import Entry, Incident, Stretch
from jobkit.ports import History

MARK_SECONDS = 15.0
INCIDENT_ENTRIES = 1_000
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Mark:
    """Nothing is missing up to `revision`."""

    revision: int


Event = BreakerView | Entry | Mark


class Chronicle:
    """The use cases. A breaker that is not there any more has a past all the same."""

    def __init__(
        self, history: History, feed: Feed, desk: BreakerDesk, mark_seconds: float = MARK_SECONDS
    ) -> None:
        self._history = history
        self._feed = feed
        self._desk = desk
        self._mark_seconds = mark_seconds

    async def transitions(
        self, breaker: str, size: int, before: int | None
    ) -> tuple[list[Entry], int | None]:
        """A page, newest first, and where the next one begins. Raises NotFound for a breaker that never was."""
        page = await self._history.page(breaker or None, size + 1, before)
        if breaker and not page and before is None:
            await self._desk.know(breaker)
        return page[:size], page[size - 1].revision if len(page) > size else None

    async def incidents(
        self, breaker: str, open_only: bool, size: int, before: int | None
    ) -> tuple[list[Incident], int | None]:
        """As `transitions`."""
        page = await self._history.incidents(
            breaker or None, open_only=open_only, size=size + 1, before=before
        )
        if breaker and not page and before is None:
            await self._desk.know(breaker)
        return page[:size], page[size - 1].incident_id if len(page) > size else None

    async def incident(self, incident_id: str) -> tuple[Incident, list[Entry]]:
        """One with its transitions. Raises NotFound, also for what is no id."""
        number = int(incident_id) if incident_id.isascii() and incident_id.isdigit() else LARGEST_ID + 1
        found = await self._history.incident(number, INCIDENT_ENTRIES) if number <= LARGEST_ID else None
        if found is None:
            raise NotFound("incident", incident_id[:64])
        return found

    async def watch(self, breaker: str, revision: int | None) -> AsyncGenerator[Event]:
        """Every transition after `revision`, in order; without one, the breakers as they are and a mark come first.
        Ends with Unavailable when this process drains: another replica goes on from the last revision. Raises
        NotFound, InvalidJob, OutOfRange."""
        if revision is not None and revision < 0:
            raise InvalidJob([FieldViolation("revision", "must not be negative")])
        if breaker:
            await self._desk.know(breaker)
        if revision is None:
            names = [breaker] if breaker else await self._desk.names()
            revision, records = await self._history.snapshot(names)
            for view in await self._desk.dress(names, records):
                yield view
            yield Mark(revision)
        clock = asyncio.get_running_loop().time
        told = clock()
        # The first look is at the database, whatever the feed knows: it refuses a revision that is out of range.
        stretch = await self._history.after(revision, breaker or None, PAGE)
        while True:
            for entry in stretch.entries:
                yield entry
                told = clock()
            revision = stretch.revision
            if self._feed.closed:
                raise Unavailable(
                    "this process is shutting down", reason="SHUTTING_DOWN", retry_after=timedelta(seconds=1)
                )
            if clock() - told >= self._mark_seconds:
                yield Mark(revision)
                told = clock()
            stretch = await self._next(revision, breaker or None, told + self._mark_seconds - clock())

    async def _next(self, revision: int, breaker: str | None, patience: float) -> Stretch:
        """From memory, or from the database for one who is far behind."""
        await self._feed.grows(revision, patience)
        stretch = self._feed.after(revision, breaker)
        return await self._history.after(revision, breaker, PAGE) if stretch is None else stretch
