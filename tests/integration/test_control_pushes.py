"""Policies, pauses and limits on their way to the fleet: pushed within a moment, refused with a reason, and known by
the poll where there is no stream."""

from __future__ import annotations

from google.rpc import code_pb2
from selfheal.control.v1 import control_stream_pb2 as wire
from selfheal.control.v1 import worker_pb2

from controlplane.breakers import BreakerDesk
from controlplane.policies import PolicyDesk
from controlplane.types import TypeDesk
from jobkit.domain.breaker import BreakerPolicy, BreakerState
from jobkit.domain.policy import PolicyOverride
from jobkit.rpc.catalog import type_from_wire
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.stream_kit import Played, Service, plays, service_of
from worker.app import WorkerApp

MOMENT = 1.0  # less than the workers' own poll


async def _set(stage: Stage, pattern: str, override: PolicyOverride) -> int:
    return (
        await PolicyDesk(stage.world, BreakerPolicy()).update(
            pattern, override, [], etag="", actor="ada", reason="a try"
        )
    ).revision


async def _joined(stage: Stage, app: WorkerApp, service: Service) -> None:
    """Connected, and not polling any more, so that what arrives was pushed."""
    await eventually(lambda: service.seen(app.organs.worker_id), lambda one: one is not None)
    await app.organs.policies.stop()


async def test_a_policy_is_in_force_within_a_moment_and_says_so(place: Place) -> None:
    async with Stage(place) as stage:
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        first, second = await stage.worker(trade), await stage.worker(trade)
        async with service_of(plane) as service:
            for app in (first, second):
                await _joined(stage, app, service)
            breaker = first.organs.breakers.of(trade.job_type)
            version = await _set(stage, trade.job_type, PolicyOverride(failure_threshold=3))

            async def known() -> list[int]:
                return [app.organs.breakers.policy_revision for app in (first, second)]

            await eventually(known, lambda revisions: revisions == [version] * 2, MOMENT)
            assert breaker.policy.failure_threshold == 3
            listed = await eventually(
                service.list,
                lambda told: any(c.kind == "policies" and c.acked == 2 for c in told.convergence),
            )
            (policies,) = [one for one in listed.convergence if one.kind == "policies"]
            assert (policies.version, policies.nacked, policies.pending) == (version, 0, 0)


async def test_a_policy_that_a_worker_cannot_go_by_is_refused_with_the_reason(place: Place) -> None:
    async with Stage(place) as stage:
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        app = await stage.worker(trade)
        async with service_of(plane) as service, plays(plane.front.rpc.address) as played:
            await _joined(stage, app, service)
            good = await _set(stage, trade.job_type, PolicyOverride(failure_threshold=3))
            await eventually(
                lambda: _push(service, app), lambda push: push is not None and push.held_version == good
            )
            # What no desk lets through: another release may have other bounds.
            bad = PolicyOverride(failure_rate=7.0)
            await stage.world.policies.put("other", bad, etag="0", actor="", reason="")
            await played.greet()
            told = await played.find("push", kind="policies")
            await played.answer(told)
            push = await eventually(
                lambda: _push(service, app),
                lambda push: push is not None and push.state == worker_pb2.PUSH_STATE_NACKED,
            )
            assert push is not None
            assert push.error.code == code_pb2.INVALID_ARGUMENT
            assert push.error.message == "the policy of 'other': policy.failure_rate must be from 0.01 to 1"
            assert (push.held_version, push.version) == (good, told.version)
            assert app.organs.breakers.policy_revision == good
            await app.organs.policies.read()  # nor does it take by the poll what it refused on the stream
            assert app.organs.breakers.of(trade.job_type).policy.failure_threshold == 3
            assert app.organs.breakers.policy_revision == good

            async def convergence() -> tuple[int, int]:
                listed = await service.list()
                (one,) = [one for one in listed.convergence if one.kind == "policies"]
                return one.acked, one.nacked

            await eventually(convergence, lambda counts: counts == (1, 1))


async def test_a_breaker_that_is_open_stays_so_when_its_policy_changes(place: Place) -> None:
    async with Stage(place) as stage:
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        app = await stage.worker(trade)
        async with service_of(plane) as service:
            await _joined(stage, app, service)
            stream = app.organs.breakers
            for number in range(1, 4):
                version = await _set(stage, trade.job_type, PolicyOverride(cooldown=number * 60_000))
                if number == 1:
                    await _open(stage, trade.job_type)
                    await eventually(lambda: _state(app, trade), lambda state: state is BreakerState.OPEN)
                    before = stream.of(trade.job_type).record
                await eventually(lambda: _revision(app), lambda found, v=version: found == v, MOMENT)  # type: ignore[misc]
            assert stream.of(trade.job_type).record == before
            assert stream.of(trade.job_type).policy.cooldown == 180_000


async def test_pauses_and_limits_come_with_the_catalog(place: Place) -> None:
    async with Stage(place) as stage:
        plane = await stage.controlplane()
        trade = Trade(place.type("email"))
        app = await stage.worker(trade)
        desk = TypeDesk(stage.world)
        async with service_of(plane) as service, plays(plane.front.rpc.address) as played:
            await _joined(stage, app, service)
            await played.greet()
            await desk.limit(trade.job_type, 3, "ada", "slow")
            await desk.pause(trade.job_type, "ada", "broken", None)
            told = await _snapshot(played, trade.job_type, paused=True)
            assert told.slot_limit == 3
            allowance = app.organs.limits.of(trade.job_type)

            async def steered() -> tuple[bool, int | None]:
                return allowance.paused, allowance.slot_limit

            await eventually(steered, lambda found: found == (True, 3), MOMENT)
            await desk.resume(trade.job_type, "ada", "mended")
            await desk.limit(trade.job_type, None, "ada", "quick")
            await eventually(steered, lambda found: found == (False, None), MOMENT)
            # An older push that comes late.
            old = wire.JobTypeSnapshot(job_type=trade.job_type, paused=True, revision=told.revision)
            app.organs.limits.hear({trade.job_type: type_from_wire(old)})
            assert await steered() == (False, None)
            # A newer one, before the database was asked.
            new = wire.JobTypeSnapshot(job_type=trade.job_type, paused=True, slot_limit=2, revision=10**6)
            app.organs.limits.hear({trade.job_type: type_from_wire(new)})
            assert await steered() == (True, 2)


async def test_a_worker_without_a_stream_follows_by_its_poll(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        trade = Trade(embedded.type("email"))
        app = await stage.worker(trade)
        assert not app.control.connected
        await stage.world.policies.put(
            trade.job_type, PolicyOverride(failure_threshold=3), etag="0", actor="", reason=""
        )
        await eventually(lambda: _revision(app), lambda revision: revision == 1, 4.0)
        assert app.organs.breakers.of(trade.job_type).policy.failure_threshold == 3


async def _open(stage: Stage, job_type: str) -> None:
    await BreakerDesk(stage.world).open(job_type, "ada", "a try", None)


async def _state(app: WorkerApp, trade: Trade) -> BreakerState:
    return app.organs.breakers.of(trade.job_type).record.state


async def _revision(app: WorkerApp) -> int:
    return app.organs.breakers.policy_revision


async def _push(service: Service, app: WorkerApp) -> worker_pb2.WorkerPush | None:
    worker = await service.seen(app.organs.worker_id)
    return next((push for push in worker.pushes if push.kind == "policies"), None) if worker else None


async def _snapshot(played: Played, job_type: str, *, paused: bool) -> wire.JobTypeSnapshot:
    while True:
        push = await played.find("push", kind="job_types")
        await played.answer(push)
        for packed in push.resources:
            told = wire.JobTypeSnapshot()
            packed.Unpack(told)
            if told.job_type == job_type and told.paused == paused:
                return told
