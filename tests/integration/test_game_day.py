"""Game days: injected failures reach the fleet, open breakers like real ones, and end by themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from selfheal.control.v1 import game_day_service_pb2 as api
from selfheal.control.v1.game_day_service_pb2_grpc import GameDayServiceStub

from jobkit import job_handler
from jobkit.cli.main import main
from jobkit.domain.breaker import BreakerState
from jobkit.domain.errors import store_unavailable
from jobkit.domain.fault import Fault
from jobkit.domain.job import Job, JobState
from jobkit.host.world import new_id
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.stream_kit import service_of
from worker.app import WorkerApp

if TYPE_CHECKING:
    from selfheal.control.v1.game_day_service_pb2_grpc import GameDayServiceAsyncStub

QUICK = {"COOLDOWN_PERIOD": "0.5", "MAX_COOLDOWN": "1"}


@asynccontextmanager
async def _game_day(plane: Any) -> AsyncIterator[GameDayServiceAsyncStub]:
    async with grpc.aio.insecure_channel(plane.front.rpc.address) as channel:
        yield GameDayServiceStub(channel)


def _request(job_type: str, seconds: float = 3, rate: float = 1.0) -> api.InjectFaultRequest:
    ttl = Duration()
    ttl.FromTimedelta(timedelta(seconds=seconds))
    return api.InjectFaultRequest(
        job_type=job_type, error_code="API_TIMEOUT", rate=rate, ttl=ttl, actor="ada", reason="to see it heal"
    )


def _fault(job_type: str, seconds: float) -> Fault:
    return Fault(new_id(), job_type, "API_TIMEOUT", 1.0, timedelta(seconds=seconds), "ada", "rehearsal")


async def _state(app: WorkerApp, name: str) -> BreakerState:
    return app.organs.breakers.of(name).record.state


async def test_an_injected_outage_opens_the_breaker_and_heals_when_its_time_is_over(place: Place) -> None:
    email, sms = Trade(place.type("email")), Trade(place.type("sms"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        app = await stage.worker(email, sms, **QUICK)
        await stage.world.types.ensure([email.job_type], 10)
        async with _game_day(plane) as game_day, service_of(plane) as workers:
            fault = (await game_day.InjectFault(_request(email.job_type))).fault
            assert (fault.job_type, fault.actor, fault.HasField("remaining")) == (email.job_type, "ada", True)

            async def held() -> dict[str, int]:
                worker = await workers.seen(app.organs.worker_id)
                return {push.kind: push.held_version for push in worker.pushes} if worker else {}

            await eventually(held, lambda kinds: kinds.get("faults", 0) > 0)
            ids = await stage.submit_many(email.job_type, 30)
            others = await stage.submit_many(sms.job_type, 30)
            opened = await eventually(lambda: _state(app, email.job_type), lambda s: s is BreakerState.OPEN)
            assert opened is BreakerState.OPEN
            assert not email.begun  # the handler was never called
            failed = await eventually(lambda: _failed(stage, ids), bool)
            assert {(job.last_error.code, job.last_error.message) for job in failed if job.last_error} == {
                ("API_TIMEOUT", "injected by ada: to see it heal")
            }
            await stage.all_reach(others, JobState.SUCCEEDED)
            await stage.all_reach(ids, JobState.SUCCEEDED, patience=30)
            assert await _state(app, email.job_type) is BreakerState.CLOSED
            (over,) = (await game_day.ListFaults(api.ListFaultsRequest())).faults
            assert (over.fault_id, over.HasField("remaining"), over.HasField("stop_time")) == (
                fault.fault_id,
                False,
                False,
            )


async def _failed(stage: Stage, ids: Sequence[UUID]) -> list[Job]:
    """Those that have; a failure is evidence before it is recorded."""
    return [job for job in [await stage.job(i) for i in ids] if job.last_error is not None]


async def test_without_a_stream_workers_find_faults_in_the_database(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        fault = _fault(email.job_type, 60)
        await stage.world.types.ensure([email.job_type], 10)
        await stage.world.faults.inject(fault)
        await app.organs.faults.read()
        job = await stage.reaches(await stage.submit(email.job_type, max_attempts=1), JobState.QUARANTINED)
        assert job.last_error is not None
        assert job.last_error.message == "injected by ada: rehearsal"
        await stage.world.faults.stop(fault.fault_id, "ada", "seen")
        await app.organs.faults.read()
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)


async def test_a_fault_ends_though_the_database_is_away(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(email, FAILURE_THRESHOLD="1000")
        await stage.world.types.ensure(["email"], 10)
        await stage.world.faults.inject(_fault("email", 0.5))
        await app.organs.faults.read()

        async def away() -> int:
            raise store_unavailable("database")

        monkeypatch.setattr(stage.world.faults, "revision", away)

        async def succeeds() -> JobState:
            job = await stage.reaches(
                await stage.submit("email", max_attempts=1), JobState.SUCCEEDED, JobState.QUARANTINED
            )
            return job.state

        await eventually(succeeds, lambda state: state is JobState.SUCCEEDED)


async def test_blocking_handlers_are_spared_the_call_too(embedded: Place) -> None:
    def blocking(job: Any) -> None:
        raise AssertionError("it was called")

    async with Stage(embedded) as stage:
        await stage.jobapi()
        app = await stage.worker(job_handler("email", max_attempts=1)(blocking))
        await stage.world.types.ensure(["email"], 10)
        await stage.world.faults.inject(_fault("email", 60))
        await app.organs.faults.read()
        job = await stage.reaches(await stage.submit("email"), JobState.QUARANTINED)
        assert job.last_error is not None
        assert job.last_error.code == "API_TIMEOUT"


async def test_a_worker_that_takes_no_part_refuses_the_push(embedded: Place) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email, GAME_DAY="0")
        await stage.world.types.ensure(["email"], 10)
        async with _game_day(plane) as game_day, service_of(plane) as workers:
            await game_day.InjectFault(_request("email", 60))

            async def refused() -> list[str]:
                listed = await workers.list()
                return [
                    nack.error.message
                    for one in listed.convergence
                    if one.kind == "faults"
                    for nack in one.refusals
                ]

            (message,) = await eventually(refused, bool)
            assert "game days" in message
        await stage.reaches(await stage.submit("email"), JobState.SUCCEEDED)


async def test_over_grpc_and_rest(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await stage.world.types.ensure(["email", "sms"], 10)
        async with _game_day(plane) as game_day:
            status, body = await stage.post(
                plane, "/v1/faults", json={"jobType": "email", "errorCode": "A", "rate": 0.5, "ttl": "60s"}
            )
            assert (status, body["fault"]["actor"], body["fault"]["ttl"]) == (200, "anonymous", "60s")
            fault_id = body["fault"]["faultId"]
            await game_day.InjectFault(_request("sms"))
            page = await game_day.ListFaults(api.ListFaultsRequest(page_size=1))
            assert [fault.job_type for fault in page.faults] == ["sms"]
            rest = await game_day.ListFaults(
                api.ListFaultsRequest(page_size=1, page_token=page.next_page_token)
            )
            assert ([fault.fault_id for fault in rest.faults], rest.next_page_token) == ([fault_id], "")
            status, body = await stage.post(
                plane, f"/v1/faults/{fault_id}:stop", json={"actor": "bob", "reason": "seen"}
            )
            assert (status, body["fault"]["stopActor"], body["fault"]["stopReason"]) == (200, "bob", "seen")
            status, body = await stage.get(plane, "/v1/faults?activeOnly=true")
            assert [fault["jobType"] for fault in body["faults"]] == ["sms"]
            for path, body_of, reason in (
                (
                    "/v1/faults",
                    {"jobType": "nobody", "errorCode": "A", "rate": 1, "ttl": "1s"},
                    "TYPE_NOT_FOUND",
                ),
                (
                    "/v1/faults",
                    {"jobType": "email", "errorCode": "A", "rate": 0, "ttl": "1s"},
                    "INVALID_FIELD",
                ),
                ("/v1/faults/nonsense:stop", {}, "FAULT_NOT_FOUND"),
                (f"/v1/faults/{new_id()}:stop", {}, "FAULT_NOT_FOUND"),
            ):
                status, body = await stage.post(plane, path, json=body_of)
                assert (status >= 400, body["error"]["details"][0]["reason"]) == (True, reason)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await game_day.ListFaults(api.ListFaultsRequest(page_token="x"))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("environ", [{"GAME_DAY": "0"}, {"SELFHEAL_ENV": "production"}])
async def test_where_it_is_off_nothing_is_injected(embedded: Place, environ: dict[str, str]) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane(**environ)
        await stage.world.types.ensure(["email"], 10)
        async with _game_day(plane) as game_day:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await game_day.InjectFault(_request("email"))
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        status, body = await stage.post(plane, "/v1/faults", json={"jobType": "email"})
        assert (status, body["error"]["details"][0]["reason"]) == (400, "GAME_DAY_OFF")
        assert await stage.world.faults.active() == []


async def test_by_command_line(embedded: Place, capsys: pytest.CaptureFixture[str]) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await stage.world.types.ensure(["email"], 10)

        async def selfheal(*arguments: str) -> tuple[int, str]:
            line = ["--control", plane.front.rpc.address, "gameday", *arguments]
            code = await asyncio.to_thread(main, line)
            return code, capsys.readouterr().out

        why = ("--reason", "to see it heal", "--actor", "ada")
        code, out = await selfheal("inject", "email", "--rate", "0.5", "--ttl", "2m", "--json", *why)
        assert code == 0
        fault = json.loads(out)
        assert (fault["jobType"], fault["errorCode"], fault["rate"], fault["ttl"]) == (
            "email",
            "API_TIMEOUT",
            0.5,
            "120s",
        )
        code, out = await selfheal("list", "--active")
        assert code == 0
        for part in (fault["faultId"], "email", "50%", "s left", "ada", "to see it heal"):
            assert part in out
        code, out = await selfheal("stop", fault["faultId"], *why)
        assert (code, "stopped" in out) == (0, True)
        assert (await selfheal("list", "--active", "--json")) == (0, "")
        assert (await selfheal("inject", "nobody", *why))[0] == 1
        assert (await selfheal("inject", "email", "--ttl", "soon", *why))[0] == 2
        assert (await selfheal("inject", "email"))[0] == 2  # nobody is there to say why
