"""What became of breakers: the ledger as it is read, and the incidents in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.ledger import Entry, Incident, Stretch, Tally


class History(Protocol):
    """Reading the ledger. Every answer is of one moment."""

    async def head(self) -> int:
        """The newest revision; 0 of an empty ledger."""

    async def snapshot(self, names: Sequence[str]) -> tuple[int, dict[str, BreakerRecord]]:
        """The newest revision, and those of the breakers that the ledger knows, as they are at it."""

    async def after(self, revision: int, breaker: str | None, limit: int) -> Stretch:
        """What follows `revision`, of one breaker or of all, up to `limit` entries. Raises OutOfRange when some of
        it has left the ledger, and when the ledger has not come to `revision` yet."""

    async def page(self, breaker: str | None, size: int, before: int | None) -> list[Entry]:
        """Up to `size` entries, newest first, with revisions below `before`."""

    async def incidents(
        self, breaker: str | None, *, open_only: bool, size: int, before: int | None
    ) -> list[Incident]:
        """Up to `size` incidents, newest first, with ids below `before`."""

    async def incident(self, incident_id: int, limit: int) -> tuple[Incident, list[Entry]] | None:
        """One incident with its breaker's fleet transitions, oldest first, the first `limit` of them."""


class Sums(Protocol):
    """What incidents amount to. Any number of processes may do this at once."""

    async def weigh(self, limit: int) -> None:
        """Look at what waits behind each open incident (up to `limit` jobs each) and raise its sums."""

    async def tally(self, limit: int) -> Tally:
        """Up to `limit` transitions that no tally has told before, and attempts saved that none has: each is told
        to one caller once."""
