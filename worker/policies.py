"""Breaker policies: read when their revision moves."""

from __future__ import annotations

import logging

from jobkit.domain.errors import Unavailable
from jobkit.ports import Policies
from jobkit.runtime.lifecycle import Loops
from worker.breakers import Breakers

_log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


class PolicyReader:
    """Polls every two seconds; `hurry` makes it look at once. Without the database the last known ones stay."""

    def __init__(self, policies: Policies, breakers: Breakers) -> None:
        self._policies = policies
        self._breakers = breakers
        self._refused = 0
        self._loops = Loops()

    def start(self) -> None:
        self._loops.every(POLL_SECONDS, "policies", self.read)

    def hurry(self) -> None:
        """They may have changed: look now."""
        self._loops.once("policies-hurry", self._read_quietly)

    async def read(self) -> None:
        """One small query, and a second one after a change."""
        if await self._policies.revision() != self._breakers.policy_revision:
            policies = await self._policies.current()
            try:
                self._breakers.apply(policies)
            except ValueError as wrong:
                if policies.revision != self._refused:
                    _log.error("policy revision %d cannot be applied: %s", policies.revision, wrong)
                self._refused = policies.revision

    async def _read_quietly(self) -> None:
        try:
            await self.read()
        except Unavailable as error:
            _log.debug("policies wait for the database: %s", error)

    async def stop(self) -> None:
        """Safe to repeat."""
        await self._loops.stop()
