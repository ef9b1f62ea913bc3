"""Faults that operators inject: runs that fail in place of the handler's, for as long as they said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobkit.domain.fault import Fault
from jobkit.domain.job import ClaimedJob
from jobkit.handling import Handler, JobContext, TransientError
from jobkit.ports import Faults
from jobkit.runtime.lifecycle import Loops

_log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


class FaultReader:
    """Polls the database every two seconds; the control stream only hurries it. Each fault ends by this process's own
    count of the time that was left, so it ends also when neither can be reached. Switched off it does nothing."""

    def __init__(self, faults: Faults, enabled: bool) -> None:
        self._faults = faults
        self._enabled = enabled
        self._loops = Loops()
        self._revision = 0
        self._active: dict[str, list[tuple[float, Fault]]] = {}

    def start(self) -> None:
        if self._enabled:
            self._loops.every(POLL_SECONDS, "faults", self.read)

    async def read(self) -> None:
        """One small query, and a second one after a change."""
        revision = await self._faults.revision()
        if revision != self._revision:
            self._take(await self._faults.active())
            self._revision = revision

    def hear(self, faults: Sequence[Fault]) -> None:
        """All that go on, as the control plane says. Raises ValueError where no faults are taken."""
        if not self._enabled:
            raise ValueError("this worker takes no part in game days (GAME_DAY, SELFHEAL_ENV)")
        self._take(faults)
        self._revision = -1  # what the database says stands, should this push be older than the last look

    def sabotage(self, job: ClaimedJob, handler: Handler) -> Handler:
        """The handler, or one that fails in its place."""
        if not self._active:
            return handler
        fault = self._hit(job)
        return handler if fault is None else replace(handler, run=_failing(fault))

    async def stop(self) -> None:
        """Safe to repeat."""
        await self._loops.stop()

    def _take(self, faults: Sequence[Fault]) -> None:
        now = asyncio.get_running_loop().time()
        known = {fault.fault_id for entries in self._active.values() for _, fault in entries}
        self._active = {}
        for fault in faults:
            until = now + fault.remaining.total_seconds()
            self._active.setdefault(fault.job_type, []).append((until, fault))
            if fault.fault_id not in known:
                _log.warning(
                    "a share of %g of %s fails with %s, %s",
                    fault.rate,
                    fault.job_type,
                    fault.error_code,
                    fault.message,
                )

    def _hit(self, job: ClaimedJob) -> Fault | None:
        now = asyncio.get_running_loop().time()
        entries = [entry for entry in self._active.get(job.job_type, ()) if entry[0] > now]
        if not entries:
            self._active.pop(job.job_type, None)
            return None
        return next((fault for _, fault in entries if fault.hits(job.job_id, job.delivery)), None)


def _failing(fault: Fault) -> Any:
    async def fail(job: JobContext) -> None:
        raise TransientError(fault.error_code, fault.message)

    return fail
