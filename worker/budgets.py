"""This worker's side of the fleet's retry budgets: no question per job, and none while nothing is retried."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta

from jobkit.domain.budget import Account, Purse, Statement
from jobkit.domain.errors import Unavailable
from jobkit.ports import LimitStore
from jobkit.runtime.lifecycle import Loops

_log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0


class Budgets:
    """A purse for each type. `alone` answers while the shared store is away: then each worker has a budget of its
    own."""

    def __init__(self, store: LimitStore, alone: LimitStore) -> None:
        self._store = store
        self._alone = alone
        self._purses: dict[str, Purse] = {}
        # First attempts that no purse knows of yet: there is one with nearly every job.
        self._firsts: Counter[str] = Counter()
        self._loops = Loops()

    def start(self) -> None:
        self._loops.every(SETTLE_SECONDS, "retry-budgets", self.settle)

    async def stop(self) -> None:
        await self._loops.stop()

    def first(self, job_type: str) -> None:
        """A job's first attempt began."""
        self._firsts[job_type] += 1

    def retry(self, job_type: str, delay: timedelta) -> timedelta:
        """How long a retry waits that would wait `delay` by itself."""
        self._purses[job_type], wait = self._purse(job_type).retry(delay)
        return wait

    async def settle(self) -> None:
        """Tell the fleet what was spent, and fetch new blocks, in one round trip."""
        sent: dict[str, Statement] = {}
        firsts, self._firsts = self._firsts, Counter()
        self._purses.update({name: self._purse(name).first(times) for name, times in firsts.items()})
        for name, purse in self._purses.items():
            statement = purse.statement
            if statement is None:
                self._purses[name] = purse.rested()
            else:
                sent[name] = statement
        if not sent:
            return
        for name, account in (await self._spend(sent)).items():
            self._purses[name] = self._purse(name).settled(sent[name], account)

    async def _spend(self, sent: dict[str, Statement]) -> dict[str, Account]:
        try:
            return await self._store.spend(sent)
        except Unavailable as error:
            _log.debug("retries go by a budget of our own: %s", error)
            return await self._alone.spend(sent)

    def _purse(self, job_type: str) -> Purse:
        return self._purses.get(job_type) or Purse()
