"""Breaker transitions that workers report: into the ledger at once. It is the fast path; what is lost here, the
worker itself and the keeper record a little later."""

from __future__ import annotations

import asyncio
import logging

from controlplane.streams.session import Session
from jobkit.domain.breaker import BreakerRecord
from jobkit.host.channels import NEWS, REVISIONS
from jobkit.ports import Ledger, Signals

_log = logging.getLogger(__name__)

MAX_WAITING = 10_000


class Reports:
    """Records in the order of arrival; a report gets its receipt once the ledger has it."""

    def __init__(self, ledger: Ledger, signals: Signals) -> None:
        self._ledger = ledger
        self._signals = signals
        self._waiting: asyncio.Queue[tuple[Session, int, BreakerRecord]] = asyncio.Queue(MAX_WAITING)
        self._current: tuple[Session, int, BreakerRecord] | None = None

    def put(self, session: Session, sequence: int, record: BreakerRecord) -> None:
        """Never waits. Over the bound it is dropped, and comes again with the worker's next stream."""
        try:
            self._waiting.put_nowait((session, sequence, record))
        except asyncio.QueueFull:
            _log.warning("too many breaker reports wait for the ledger")

    async def run(self) -> None:
        """Record for ever. Raises Unavailable while the database is away; run again, it goes on where it was."""
        while True:
            if self._current is None:
                self._current = await self._waiting.get()
            session, sequence, record = self._current
            await self._ledger.record(record)
            self._current = None
            session.outbox.receipt(sequence)
            if self._waiting.empty():
                await self._signals.send(REVISIONS, [NEWS])
