"""Runs jobs: ordinary ones side by side, suspects alone, convicts not at all."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import ClaimedJob
from jobkit.domain.outcome import Convicted, Interrupted, Outcome
from jobkit.ports import Held, WorkStore
from worker.solitude import SUSPECT_LOSSES, Solitude

_log = logging.getLogger(__name__)

Run = Callable[[ClaimedJob], Awaitable[Outcome]]


class Suspects:
    """Stands before the executor's `run`. A job is convicted after `max_losses` losses in a row while it ran alone;
    `patience` (seconds) is how long a suspect waits for the process to get empty, and `reserve` is told when nothing
    new is to be claimed, and when it is again."""

    def __init__(
        self,
        run: Run,
        store: WorkStore,
        max_losses: int,
        patience: float,
        reserve: Callable[[bool], None],
    ) -> None:
        self._run = run
        self._store = store
        self._max_losses = max_losses
        self._patience = patience
        self._solitude = Solitude(reserve)

    async def run(self, job: ClaimedJob) -> Outcome:
        """The job's outcome; raises nothing but CancelledError."""
        if job.losses < SUSPECT_LOSSES:
            async with self._solitude:
                return await self._run(job)
        if job.losses_alone >= self._max_losses:
            _log.error("convicted as poison after %d losses alone", job.losses_alone, extra=_about(job))
            return Convicted(job.losses_alone)
        async with self._solitude.alone(self._patience) as empty:
            if not empty:
                return Interrupted.POSTPONED
            _log.warning("runs alone after %d losses in a row", job.losses, extra=_about(job))
            return await self._run_alone(job)

    async def _run_alone(self, job: ClaimedJob) -> Outcome:
        """Not before the row says so: a crash that nobody can tell from a bystander's convicts nobody."""
        try:
            ours = await self._store.mark_alone(Held(job.job_id, job.delivery))
        except Unavailable:
            return Interrupted.POSTPONED
        return await self._run(job) if ours else Interrupted.LOST


def _about(job: ClaimedJob) -> dict[str, str]:
    return {"job_id": str(job.job_id), "job_type": job.job_type}
