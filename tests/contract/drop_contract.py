"""What every dispatcher does with the queue of a type that is no more, and that comes back."""

from __future__ import annotations

from jobkit.domain.errors import Unavailable
from jobkit.ports import Dispatcher
from tests.contract.inbox import TYPE, Inbox, dispatches, tokens, until


class DropContract:
    """Inherit beside `DispatcherContract`, which has the fixture."""

    async def test_a_dropped_queue_is_gone_with_what_lay_on_it(self, dispatcher: Dispatcher) -> None:
        assert await dispatcher.drop("never.seen")
        await dispatcher.publish(dispatches(tokens(3)))
        assert await dispatcher.drop(TYPE)
        assert await dispatcher.depth(TYPE) == 0

    async def test_a_queue_is_not_dropped_under_its_consumer(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(10)
        assert not await dispatcher.drop(TYPE)
        assert await dispatcher.publish(dispatches(tokens(1))) == [True]
        await lane.ack(await inbox.wait(1))
        await lane.pause()
        await until(lambda: dispatcher.drop(TYPE), "dropped")

    async def test_a_dropped_type_comes_back_by_a_publish(self, dispatcher: Dispatcher) -> None:
        await dispatcher.publish(dispatches(tokens(1)))
        assert await dispatcher.drop(TYPE)
        (token,) = tokens(1)
        assert await dispatcher.publish(dispatches([token])) == [True]
        lane = await dispatcher.open_lane(TYPE, Inbox())
        taken = await lane.take()
        assert taken is not None
        assert taken.token == token

    async def test_a_lane_that_was_paused_meanwhile_consumes_again(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        assert await dispatcher.drop(TYPE)
        for _ in range(2):  # the first attempt may find its channel closed
            try:
                await lane.consume(10)
                break
            except Unavailable:
                continue
        assert await dispatcher.publish(dispatches(tokens(2))) == [True, True]
        await inbox.wait(2)
