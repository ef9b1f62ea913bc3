"""A ledger that tells of its growth, so that watchers need not wait for their next look."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from jobkit.domain.breaker import BreakerRecord
from jobkit.host.channels import NEWS, REVISIONS
from jobkit.ports import Ledger, Signals

CHANNEL = "ledger"


class TellingLedger:
    """`ports.Ledger`: hands on to another one, and signals each record. Losing a signal costs time only."""

    def __init__(self, ledger: Ledger, signals: Signals) -> None:
        self._ledger = ledger
        self._signals = signals

    async def record(self, record: BreakerRecord) -> int:
        revision = await self._ledger.record(record)
        await self._signals.send(CHANNEL, [UUID(int=revision)])
        await self._signals.send(REVISIONS, [NEWS])
        return revision

    async def heads(self, names: Sequence[str]) -> dict[str, int]:
        return await self._ledger.heads(names)

    async def latest(self, names: Sequence[str] | None = None) -> dict[str, BreakerRecord]:
        return await self._ledger.latest(names)
