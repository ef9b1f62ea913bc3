"""What every dispatcher does with messages that no worker can decode."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jobkit.domain.errors import Unavailable, store_unavailable
from jobkit.ports import Dispatcher, Undecodable
from tests.contract.inbox import TYPE, Inbox, dispatches, drained, tokens


class IntakeContract:
    """Inherit beside `DispatcherContract`, which has the fixture."""

    async def test_a_quarantined_message_leaves_its_queue_for_the_intake(
        self, dispatcher: Dispatcher
    ) -> None:
        (token,) = tokens(1)
        lane = await dispatcher.open_lane(TYPE, Inbox())
        await dispatcher.publish(dispatches([token]))
        delivery = await lane.take()
        assert delivery is not None
        await lane.quarantine(delivery)
        await lane.close()
        assert await dispatcher.depth(TYPE) == 0
        ((body, headers),) = await drained(dispatcher, 10)
        assert body
        assert headers["x-job-id"] == str(token.job_id)
        assert headers["x-job-type"] == TYPE
        assert await drained(dispatcher, 10) == []

    async def test_the_intake_is_dropped_in_portions(self, dispatcher: Dispatcher) -> None:
        lane = await dispatcher.open_lane(TYPE, Inbox())
        await dispatcher.publish(dispatches(tokens(3)))
        for _ in range(3):
            delivery = await lane.take()
            assert delivery is not None
            await lane.quarantine(delivery)
        assert len(await drained(dispatcher, 2)) == 2
        assert len(await drained(dispatcher, 2)) == 1

    async def test_what_could_not_be_kept_stays_in_the_intake(self, dispatcher: Dispatcher) -> None:
        lane = await dispatcher.open_lane(TYPE, Inbox())
        await dispatcher.publish(dispatches(tokens(2)))
        for _ in range(2):
            delivery = await lane.take()
            assert delivery is not None
            await lane.quarantine(delivery)

        async def refuse(messages: Sequence[Undecodable]) -> None:
            raise store_unavailable("database")

        with pytest.raises(Unavailable):
            await dispatcher.drain_intake(10, refuse)
        assert len(await drained(dispatcher, 10)) == 2
