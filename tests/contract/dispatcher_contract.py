"""What every dispatcher promises. A port method without a test here does not exist."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import Token, TraceContext
from jobkit.ports import Delivery, Dispatch, Dispatcher
from tests.contract.inbox import TYPE, Inbox, dispatches, tokens, until


class DispatcherContract:
    """Inherit and give a started `dispatcher`, and an unstarted one as `fresh`."""

    @pytest.fixture
    async def dispatcher(self) -> Dispatcher:
        raise NotImplementedError

    @pytest.fixture
    async def fresh(self) -> Dispatcher:
        raise NotImplementedError

    async def depth_is(self, dispatcher: Dispatcher, depth: int, job_type: str = TYPE) -> None:
        async def holds() -> bool:
            return await dispatcher.depth(job_type) == depth

        await until(holds, f"depth {depth}")

    # -- starting and closing

    async def test_it_is_available_from_start_to_close(self, fresh: Dispatcher) -> None:
        seen = [(fresh.available, fresh.delivering)]
        for step in (fresh.start, fresh.start, fresh.close):
            await step()
            seen.append((fresh.available, fresh.delivering))
        assert seen == [(False, False), (True, True), (True, True), (False, False)]

    async def test_closing_twice_or_before_the_start_is_harmless(self, fresh: Dispatcher) -> None:
        await fresh.close()
        await fresh.start()
        await fresh.close()
        await fresh.close()

    async def test_publishing_without_a_connection_says_so_for_each_token(self, fresh: Dispatcher) -> None:
        assert await fresh.publish(dispatches(tokens(2))) == [False, False]
        await fresh.start()
        await fresh.close()
        assert await fresh.publish(dispatches(tokens(2))) == [False, False]

    async def test_a_lane_cannot_be_opened_without_a_connection(self, fresh: Dispatcher) -> None:
        with pytest.raises(Unavailable):
            await fresh.open_lane(TYPE, Inbox())

    async def test_closing_takes_the_lanes_with_it(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(5)
        await dispatcher.publish(dispatches(tokens(1)))
        (delivery,) = await inbox.wait(1)
        await dispatcher.close()
        assert not lane.consuming
        assert not delivery.live
        await lane.ack([delivery])
        await lane.close()

    # -- publishing

    async def test_an_empty_batch_has_no_answers(self, dispatcher: Dispatcher) -> None:
        assert await dispatcher.publish([]) == []

    async def test_a_token_arrives_as_it_was_sent(self, dispatcher: Dispatcher) -> None:
        trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1", "user=ä")
        token = Token(uuid.uuid4(), TYPE, 7, trace)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(1)
        assert await dispatcher.publish([Dispatch(token)]) == [True]
        (delivery,) = await inbox.wait(1)
        assert delivery.token == token
        assert delivery.live
        assert not delivery.redelivered

    async def test_order_is_kept_within_and_between_batches(self, dispatcher: Dispatcher) -> None:
        sent = tokens(1300)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        assert all(await dispatcher.publish(dispatches(sent[:1201])))
        assert all(await dispatcher.publish(dispatches(sent[1201:])))
        await lane.consume(2000)
        await inbox.wait(1300)
        assert inbox.tokens == sent

    async def test_types_do_not_mix(self, dispatcher: Dispatcher) -> None:
        mail, text = tokens(3, "email"), tokens(3, "a.b:c-D_9")
        mixed = [token for pair in zip(mail, text, strict=True) for token in pair]
        boxes = {"email": Inbox(), "a.b:c-D_9": Inbox()}
        assert await dispatcher.publish(dispatches(mixed)) == [True] * 6
        for job_type, inbox in boxes.items():
            lane = await dispatcher.open_lane(job_type, inbox)
            assert lane.job_type == job_type
            await lane.consume(10)
            await inbox.wait(3)
        assert boxes["email"].tokens == mail
        assert boxes["a.b:c-D_9"].tokens == text

    async def test_a_delayed_token_comes_when_its_time_has_come(self, dispatcher: Dispatcher) -> None:
        late, soon = tokens(2)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(10)
        before = asyncio.get_running_loop().time()
        assert await dispatcher.publish([Dispatch(late, 250), Dispatch(soon)]) == [True, True]
        await inbox.wait(1)
        assert inbox.tokens == [soon]
        await inbox.wait(2)
        assert asyncio.get_running_loop().time() - before >= 0.25
        assert inbox.tokens == [soon, late]

    async def test_shorter_delays_overtake_longer_ones(self, dispatcher: Dispatcher) -> None:
        longer, shorter = tokens(2)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(10)
        await dispatcher.publish([Dispatch(longer, 500), Dispatch(shorter, 250)])
        await inbox.wait(2)
        assert inbox.tokens == [shorter, longer]

    async def test_what_is_published_concurrently_all_arrives(self, dispatcher: Dispatcher) -> None:
        batches = [tokens(50) for _ in range(20)]
        answers = await asyncio.gather(*(dispatcher.publish(dispatches(batch)) for batch in batches))
        assert all(all(answer) for answer in answers)
        await self.depth_is(dispatcher, 1000)

    # -- depth

    async def test_depth_counts_what_is_ready(self, dispatcher: Dispatcher) -> None:
        assert await dispatcher.depth("never.seen") == 0
        await dispatcher.publish(dispatches(tokens(3)))
        await self.depth_is(dispatcher, 3)
        lane = await dispatcher.open_lane(TYPE, Inbox())
        assert await lane.take() is not None
        await self.depth_is(dispatcher, 2)

    # -- consuming

    async def test_an_opened_lane_does_not_consume(self, dispatcher: Dispatcher) -> None:
        await dispatcher.publish(dispatches(tokens(1)))
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        assert not lane.consuming
        await inbox.stays(0)

    async def test_no_more_than_the_prefetch_is_in_hand(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(2)
        assert lane.consuming
        await dispatcher.publish(dispatches(tokens(5)))
        await inbox.wait(2)
        await inbox.stays(2)
        await lane.ack(inbox.deliveries[:1])
        await inbox.wait(3)
        await inbox.stays(3)

    async def test_a_lowered_prefetch_counts_what_is_already_in_hand(self, dispatcher: Dispatcher) -> None:
        sent = tokens(8)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(4)
        await dispatcher.publish(dispatches(sent))
        await inbox.wait(4)
        await lane.consume(2)
        await inbox.stays(4)
        await lane.ack(inbox.deliveries[:2])
        await inbox.stays(4)
        await lane.ack(inbox.deliveries[2:4])
        await inbox.wait(6)
        await inbox.stays(6)
        assert inbox.tokens == sent[:6]

    async def test_a_raised_prefetch_brings_more_at_once(self, dispatcher: Dispatcher) -> None:
        sent = tokens(5)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(1)
        await dispatcher.publish(dispatches(sent))
        await inbox.wait(1)
        await lane.consume(4)
        await inbox.wait(4)
        await inbox.stays(4)
        assert inbox.tokens == sent[:4]

    async def test_a_prefetch_of_nothing_is_refused(self, dispatcher: Dispatcher) -> None:
        lane = await dispatcher.open_lane(TYPE, Inbox())
        with pytest.raises(ValueError, match="unlimited"):
            await lane.consume(0)

    async def test_pause_stops_new_tokens_and_keeps_those_in_hand(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.pause()
        await lane.consume(2)
        await dispatcher.publish(dispatches(tokens(4)))
        held = await inbox.wait(2)
        await lane.pause()
        assert not lane.consuming
        await lane.ack(held[:1])
        await inbox.stays(2)
        assert held[1].live
        await self.depth_is(dispatcher, 2)
        await lane.consume(2)
        await inbox.wait(3)

    async def test_pausing_returns_what_nobody_has_seen(self, dispatcher: Dispatcher) -> None:
        sent = tokens(6)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(3)
        await dispatcher.publish(dispatches(sent))
        await inbox.wait(3)
        await lane.consume(2)
        await lane.pause()
        await self.depth_is(dispatcher, 3)
        await lane.give_back(inbox.deliveries)
        await self.depth_is(dispatcher, 6)
        await lane.consume(10)
        await inbox.wait(9)
        assert set(inbox.tokens[3:]) == set(sent)

    async def test_lanes_of_one_type_share_its_queue(self, dispatcher: Dispatcher) -> None:
        sent = tokens(20)
        one, two = Inbox(), Inbox()
        for inbox in (one, two):
            lane = await dispatcher.open_lane(TYPE, inbox)
            await lane.consume(10)
        await dispatcher.publish(dispatches(sent))
        await one.wait(10)
        await two.wait(10)
        assert {t.job_id for t in one.tokens + two.tokens if t} == {t.job_id for t in sent}

    async def test_a_receiver_that_fails_stops_nothing(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()

        def receive(delivery: Delivery) -> None:
            inbox(delivery)
            if len(inbox.deliveries) == 1:
                raise LookupError("on purpose")

        lane = await dispatcher.open_lane(TYPE, receive)
        await lane.consume(5)
        await dispatcher.publish(dispatches(tokens(3)))
        await inbox.wait(3)
        assert lane.consuming

    # -- taking

    async def test_take_gives_one_token_without_a_consumer(self, dispatcher: Dispatcher) -> None:
        sent = tokens(2)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        assert await lane.take() is None
        await dispatcher.publish(dispatches(sent))
        first = await lane.take()
        assert first is not None
        assert first.token == sent[0]
        assert not lane.consuming
        await lane.ack([first])
        second = await lane.take()
        assert second is not None
        await lane.give_back([second])
        await self.depth_is(dispatcher, 1)
        await inbox.stays(0)

    # -- settling

    async def test_acknowledged_tokens_are_gone(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(10)
        await dispatcher.publish(dispatches(tokens(6)))
        await inbox.wait(6)
        await lane.ack(inbox.deliveries[3:])
        await lane.ack(inbox.deliveries[:3])
        await lane.close()
        await self.depth_is(dispatcher, 0)

    async def test_settling_twice_is_harmless(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(2)
        await dispatcher.publish(dispatches(tokens(3)))
        held = await inbox.wait(2)
        await lane.ack(held[:1])
        await lane.ack(held[:1])
        await lane.give_back(held[:1])
        await lane.ack([])
        await inbox.wait(3)
        await inbox.stays(3)
        assert lane.consuming
        assert held[1].live

    async def test_returned_tokens_keep_their_place(self, dispatcher: Dispatcher) -> None:
        sent = tokens(6)
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(4)
        await dispatcher.publish(dispatches(sent))
        held = await inbox.wait(4)
        await lane.pause()
        await lane.give_back([held[3], held[1], held[2], held[0]])
        await self.depth_is(dispatcher, 6)
        await lane.consume(10)
        await inbox.wait(10)
        assert inbox.tokens[4:] == sent
        assert [d.redelivered for d in inbox.deliveries[4:]] == [True] * 4 + [False] * 2

    async def test_a_closed_lane_returns_what_is_in_hand(self, dispatcher: Dispatcher) -> None:
        sent = tokens(4)
        inbox, other = Inbox(), Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(3)
        await dispatcher.publish(dispatches(sent))
        held = await inbox.wait(3)
        await lane.ack(held[:1])
        await lane.close()
        await lane.close()
        assert not lane.consuming
        assert [delivery.live for delivery in held] == [False] * 3
        await lane.ack(held)
        await lane.give_back(held)
        await self.depth_is(dispatcher, 3)
        heir = await dispatcher.open_lane(TYPE, other)
        await heir.consume(10)
        await other.wait(3)
        assert other.tokens == sent[1:]
        assert [d.redelivered for d in other.deliveries[:2]] == [True, True]

    async def test_a_closed_lane_can_consume_again(self, dispatcher: Dispatcher) -> None:
        inbox = Inbox()
        lane = await dispatcher.open_lane(TYPE, inbox)
        await lane.consume(1)
        await lane.close()
        await lane.consume(1)
        assert lane.consuming
        await dispatcher.publish(dispatches(tokens(1)))
        await inbox.wait(1)
