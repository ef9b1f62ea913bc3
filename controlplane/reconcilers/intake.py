"""Undecodable messages: the workers put them aside on the broker, this files them in the database."""

from __future__ import annotations

import logging

from jobkit.host.world import World

_log = logging.getLogger(__name__)

BATCH = 100


class Intake:
    """Empties the broker's intake, so that its depth is zero when all is well."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def file(self) -> None:
        """File what is there. A message leaves the broker only when the database has it."""
        filed = await self._world.dispatcher.drain_intake(BATCH, self._world.recovery.file_undecodable)
        if filed:
            _log.warning("filed %d messages that no worker could decode", filed)
