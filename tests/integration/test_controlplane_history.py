"""What is told of the past: the watch that misses nothing, transitions and incidents through both doors, counters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2_grpc
from selfheal.control.v1 import breaker_service_pb2 as api

from controlplane.breakers import BreakerDesk
from controlplane.chronicle import Chronicle, Mark
from controlplane.feed import Feed
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Transition
from jobkit.domain.errors import OutOfRange, Unavailable
from jobkit.domain.ledger import Entry
from jobkit.host.world import World
from jobkit.rpc.details import error_details
from tests.integration.stage import Place, Stage, eventually

OPEN, CLOSED = BreakerState.OPEN, BreakerState.CLOSED


@asynccontextmanager
async def service(plane: Any) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(plane.front.rpc.address) as channel:
        yield breaker_service_pb2_grpc.BreakerServiceStub(channel)


async def flap(world: World, name: str, times: int, begin: int = 1) -> None:
    """`times` transitions, each a write of its own."""
    for generation in range(begin, begin + times):
        to = OPEN if generation % 2 else CLOSED
        move = Transition(CLOSED if generation % 2 else OPEN, to, generation, generation, Cause.EVIDENCE)
        record = BreakerRecord(name, to, generation, opened_at=generation, transitions=(move,))
        await world.ledger.record(record)


async def take(call: Any, count: int) -> list[api.WatchBreakersResponse]:
    """The next `count` messages that are no marks."""
    found: list[api.WatchBreakersResponse] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            message = await call.read()
            if message.WhichOneof("event"):
                found.append(message)
    return found


def told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    rich = rpc_status.from_call(error)
    assert rich is not None
    return error.code(), error_details(rich).reason


# -- the watch ----------------------------------------------------------------------------------------------------


async def test_a_watch_begins_with_what_is_and_goes_on_with_what_comes(place: Place) -> None:
    async with Stage(place) as stage:
        names = sorted(place.type(name) for name in ("a", "b"))
        await stage.world.types.ensure(names, 10)
        plane = await stage.controlplane()
        desk = BreakerDesk(stage.world)
        await desk.open(names[0], "ops", "before", None)
        async with service(plane) as stub:
            call = stub.WatchBreakers(api.WatchBreakersRequest())
            first = [await call.read() for _ in range(3)]
            assert [m.breaker.breaker for m in first[:2]] == names
            assert [m.breaker.state for m in first[:2]] == [
                breaker_pb2.BREAKER_STATE_OPEN,
                breaker_pb2.BREAKER_STATE_CLOSED,
            ]
            assert (first[0].breaker.forced, first[0].revision) == (True, 0)
            assert (first[2].WhichOneof("event"), first[2].revision) == (None, 1)
            await desk.reset(names[0], "ops", "after")
            (news,) = await take(call, 1)
            move = news.transition
            assert (news.revision, move.revision, move.breaker, move.actor) == (2, 2, names[0], "ops")
            assert move.to_state == breaker_pb2.BREAKER_STATE_CLOSED
            call.cancel()


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_a_watch_that_changes_replicas_misses_nothing_and_repeats_nothing(real: Place) -> None:
    """Four writers, two control planes, and a watcher that is cut off again and again."""
    async with Stage(real) as stage:
        planes = [await stage.controlplane() for _ in range(2)]
        names = [real.type(f"t{n}") for n in range(4)]
        await stage.world.types.ensure(names, 10)
        seen: list[int] = []
        per_writer = 40
        writing = [asyncio.create_task(flap(stage.world, name, per_writer)) for name in names]

        async def watch() -> None:
            turn, cursor = 0, 0
            while len(seen) < per_writer * len(names):
                async with service(planes[turn % 2]) as stub:
                    call = stub.WatchBreakers(api.WatchBreakersRequest(revision=cursor))
                    left = per_writer * len(names) - len(seen)
                    for message in await take(call, min(7 + turn, left)):
                        assert message.revision == message.transition.revision
                        seen.append(message.revision)
                        cursor = message.revision
                    call.cancel()
                turn += 1

        async with asyncio.timeout(60):
            await asyncio.gather(watch(), *writing)
        assert seen == list(range(1, per_writer * len(names) + 1))


async def test_one_breaker_is_watched_alone_and_marks_bring_the_revision_on(place: Place) -> None:
    async with Stage(place) as stage:
        mine, other = place.type("mine"), place.type("other")
        await stage.world.types.ensure([mine, other], 10)
        feed = Feed(stage.world.history, stage.world.signals)
        chronicle = Chronicle(stage.world.history, feed, BreakerDesk(stage.world), mark_seconds=0.05)
        following = asyncio.create_task(feed.follow())
        async with aclosing(chronicle.watch(mine, 0)) as events:
            await flap(stage.world, other, 3)
            async for event in events:
                assert isinstance(event, Mark)
                if event.revision == 3:
                    break
            await flap(stage.world, mine, 1)
            async for event in events:
                if isinstance(event, Entry):
                    break
            assert event.revision == 4
        following.cancel()
        await feed.close()


async def test_a_slow_watcher_goes_on_from_the_database(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept for it but its revision; what has left the memory is read again."""
    monkeypatch.setattr("controlplane.feed.KEPT", 5)
    monkeypatch.setattr("controlplane.feed.PAGE", 3)
    async with Stage(embedded) as stage:
        await stage.world.types.ensure(["email"], 10)
        feed = Feed(stage.world.history, stage.world.signals)
        await feed.catch_up()
        chronicle = Chronicle(stage.world.history, feed, BreakerDesk(stage.world))
        async with aclosing(chronicle.watch("", 0)) as events:
            await flap(stage.world, "email", 1)
            await feed.catch_up()
            assert isinstance(first := await anext(events), Entry)
            await flap(stage.world, "email", 30, begin=2)
            await feed.catch_up()
            assert feed.after(1, None) is None
            rest = [await anext(events) for _ in range(30)]
        assert [event.revision for event in (first, *rest)] == list(range(1, 32))
        await feed.close()


async def test_a_feed_starts_anew_when_the_ledger_was_put_back(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        feed = Feed(stage.world.history, stage.world.signals)
        await flap(stage.world, "email", 3)
        await feed.catch_up()
        real_after = stage.world.history.after

        async def restored(revision: int, breaker: str | None, limit: int) -> Any:
            if revision:
                raise OutOfRange("", reason="REVISION_AHEAD")
            return await real_after(revision, breaker, limit)

        stage.world.history.after = restored  # type: ignore[method-assign]
        with pytest.raises(OutOfRange):
            await feed.catch_up()
        assert feed.after(3, None) is None
        stage.world.history.after = real_after  # type: ignore[method-assign]
        await feed.catch_up()
        assert feed.after(3, None) is not None
        await feed.close()


async def test_a_watch_outlives_a_database_that_is_away(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.world.types.ensure(["email"], 10)
        plane = await stage.controlplane()
        async with service(plane) as stub:
            call = stub.WatchBreakers(api.WatchBreakersRequest())
            await take(call, 1)
            await flap(stage.world, "email", 1)
            await take(call, 1)
            real_after = stage.world.history.after

            async def away(revision: int, breaker: str | None, limit: int) -> Any:
                raise Unavailable("away", reason="DATABASE_UNAVAILABLE", retry_after=timedelta(seconds=1))

            stage.world.history.after = away  # type: ignore[method-assign]
            await flap(stage.world, "email", 2, begin=2)
            await asyncio.sleep(0.2)
            stage.world.history.after = real_after  # type: ignore[method-assign]
            assert [m.revision for m in await take(call, 2)] == [2, 3]
            call.cancel()


async def test_a_watch_begins_also_while_the_breaker_store_is_away(embedded: Place) -> None:
    """The ledger has the state; only the failures in the window are missing."""
    async with Stage(embedded) as stage:
        await stage.jobapi()
        await stage.submit("email")
        plane = await stage.controlplane()
        await BreakerDesk(stage.world).open("email", "ops", "", None)

        async def away(names: Any) -> Any:
            raise Unavailable("away", reason="REDIS_UNAVAILABLE", retry_after=timedelta(seconds=1))

        stage.world.breakers.failures = away  # type: ignore[method-assign]
        async with service(plane) as stub:
            call = stub.WatchBreakers(api.WatchBreakersRequest())
            (first,) = await take(call, 1)
            assert first.breaker.state == breaker_pb2.BREAKER_STATE_OPEN
            assert first.breaker.held_jobs == 1
            call.cancel()


async def test_a_watch_that_cannot_be_gone_on_is_refused(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.world.types.ensure(["email"], 10)
        plane = await stage.controlplane()
        async with service(plane) as stub:
            for request, code, reason in (
                (api.WatchBreakersRequest(revision=7), "OUT_OF_RANGE", "REVISION_AHEAD"),
                (api.WatchBreakersRequest(revision=-1), "INVALID_ARGUMENT", "INVALID_FIELD"),
                (api.WatchBreakersRequest(breaker="x"), "NOT_FOUND", "BREAKER_NOT_FOUND"),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await take(stub.WatchBreakers(request), 1)
                assert told(refused.value) == (grpc.StatusCode[code], reason)


async def test_a_drain_does_not_wait_for_watchers(embedded: Place) -> None:
    """They are told to go elsewhere, long before the grace of those that are served to their end is over."""
    async with Stage(embedded) as stage:
        await stage.world.types.ensure(["email"], 10)
        plane = await stage.controlplane(SHUTDOWN_GRACE="600")
        async with service(plane) as stub:
            call = stub.WatchBreakers(api.WatchBreakersRequest())
            await take(call, 1)
            await call.read()  # the mark
            leaving = asyncio.create_task(stage.leave(plane))
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await take(call, 1)
            assert told(ended.value) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            async with asyncio.timeout(100):
                await leaving


# -- pages, through both doors ------------------------------------------------------------------------------------


async def test_transitions_and_incidents_over_rest(place: Place) -> None:
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        name, quiet = place.type("email"), place.type("quiet")
        await stage.world.types.ensure([quiet], 10)
        held = [await stage.submit(name) for _ in range(3)]
        desk = BreakerDesk(stage.world)
        await desk.open(name, "ops", "provider is down", None)
        await stage.submit(name)
        status, body = await stage.get(plane, "/v1/incidents?openOnly=true")
        (lasting,) = body["incidents"]
        assert (status, lasting["breaker"], lasting["incidentId"]) == (200, name, "1")
        assert "closeTime" not in lasting

        async def weighed() -> Any:
            return (await stage.get(plane, f"/v1/breakers/{name}/incidents"))[1]["incidents"][0]

        await eventually(weighed, lambda incident: incident["jobsHeld"] == "4")
        await desk.reset(name, "ops", "it is back")
        assert len(held) == 3
        _, body = await stage.get(plane, "/v1/incidents/1")
        incident = body["incident"]
        assert incident["jobsHeld"] == "4"
        # A run each at once, and another after five seconds.
        assert incident["attemptsSaved"] == incident["callsAvoided"] in {"4", "8"}
        assert (incident["cause"], incident["actor"]) == ("TRANSITION_CAUSE_OPERATOR", "ops")
        assert "timeToRecover" in incident
        assert "goodProbeTime" not in incident
        assert [t["reason"] for t in body["transitions"]] == ["provider is down", "it is back"]
        _, page = await stage.get(plane, "/v1/transitions?pageSize=1")
        assert [t["revision"] for t in page["transitions"]] == ["2"]
        _, rest = await stage.get(plane, f"/v1/transitions?pageSize=1&pageToken={page['nextPageToken']}")
        assert ([t["revision"] for t in rest["transitions"]], rest["nextPageToken"]) == (["1"], "")
        assert await stage.get(plane, f"/v1/breakers/{quiet}/transitions") == (
            200,
            {"transitions": [], "nextPageToken": ""},
        )
        assert (await stage.get(plane, f"/v1/breakers/{quiet}/incidents"))[0] == 200


async def test_bad_pages_and_unknown_names(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        for path, status in (
            ("/v1/transitions?pageSize=-1", 400),
            ("/v1/transitions?pageToken=x", 400),
            ("/v1/incidents?pageToken=-1", 400),
            (f"/v1/incidents?pageToken={2**63}", 400),
            ("/v1/breakers/x/transitions", 404),
            ("/v1/breakers/x/incidents", 404),
            ("/v1/incidents/1", 404),
            ("/v1/incidents/x", 404),
            (f"/v1/incidents/{2**63}", 404),
        ):
            assert (await stage.get(plane, path))[0] == status, path


async def test_a_watch_over_http_is_lines_of_json(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.world.types.ensure(["email"], 10)
        plane = await stage.controlplane()
        url = f"{plane.front.http.url}/v1/breakers:watch"
        async with stage.http.get(url) as response:
            assert (response.status, response.content_type) == (200, "application/x-ndjson")
            lines = [json.loads(await response.content.readline()) for _ in range(2)]
            assert [line.get("breaker", {}).get("breaker") for line in lines] == ["email", None]
            await flap(stage.world, "email", 1)
            line = json.loads(await response.content.readline())
            assert (line["revision"], line["transition"]["toState"]) == ("1", "BREAKER_STATE_OPEN")
            await stage.leave(plane)
            last = json.loads(await response.content.readline())
            assert last["error"]["status"] == "UNAVAILABLE"
            assert await response.content.readline() == b""


async def test_a_watch_over_http_that_is_refused_says_so_in_its_status(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        status, body = await stage.get(plane, "/v1/breakers:watch?revision=9")
        assert (status, body["error"]["status"]) == (400, "OUT_OF_RANGE")
