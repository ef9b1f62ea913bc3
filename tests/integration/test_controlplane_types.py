"""JobTypeService: over gRPC and REST."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import job_type_service_pb2 as api
from selfheal.control.v1.job_type_service_pb2_grpc import JobTypeServiceStub

from jobkit.cli.main import main
from jobkit.domain.job import JobState
from tests.integration.stage import Place, Stage, Trade, eventually


async def test_types_are_listed_paused_limited_and_resumed(embedded: Place) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        worker = await stage.worker(email)
        await worker.organs.beat()
        await stage.world.types.ensure(["sms"], 10)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.front.rpc.port}") as channel:
            types = JobTypeServiceStub(channel)
            page = await types.ListJobTypes(api.ListJobTypesRequest(page_size=1))
            assert [one.job_type for one in page.job_types] == ["email"]
            rest = await types.ListJobTypes(api.ListJobTypesRequest(page_token=page.next_page_token))
            assert "sms" in [one.job_type for one in rest.job_types]

            until = Timestamp()
            until.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
            ask = api.PauseJobTypeRequest(job_type="email", actor="ada", reason="they move", until=until)
            paused = (await types.PauseJobType(ask)).job_type
            assert (paused.pause.actor, paused.pause.reason) == ("ada", "they move")
            assert abs(paused.pause.until.seconds - until.seconds) <= 1
            job_id = await stage.submit("email")
            await stage.reaches(job_id, JobState.QUARANTINED)
            one = (await types.GetJobType(api.GetJobTypeRequest(job_type="email"))).job_type
            assert (one.held_jobs, one.waiting_jobs, one.served) == (1, 1, True)

            limited = await types.UpdateJobTypeLimits(
                api.UpdateJobTypeLimitsRequest(job_type="email", concurrency=2)
            )
            assert limited.job_type.concurrency == 2
            assert limited.job_type.revision > paused.revision

            async def known() -> int | None:
                return worker.organs.limits.of("email").slot_limit

            await eventually(known, lambda found: found == 2)
            resumed = await types.ResumeJobType(api.ResumeJobTypeRequest(job_type="email"))
            assert not resumed.job_type.HasField("pause")
            await stage.reaches(job_id, JobState.SUCCEEDED)
            lifted = await types.UpdateJobTypeLimits(api.UpdateJobTypeLimitsRequest(job_type="email"))
            assert not lifted.job_type.HasField("concurrency")

            for wrong in (0, -1, 2_000_000):
                many = api.UpdateJobTypeLimitsRequest(job_type="email", concurrency=wrong)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await types.UpdateJobTypeLimits(many)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await types.GetJobType(api.GetJobTypeRequest(job_type="nobody"))
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
            past = Timestamp(seconds=1)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await types.PauseJobType(api.PauseJobTypeRequest(job_type="email", until=past))
            assert late.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        status, body = await stage.post(plane, "/v1/jobTypes/email:pause", json={"reason": "by REST"})
        assert (status, body["jobType"]["pause"]["actor"]) == (200, "anonymous")
        status, body = await stage.get(plane, "/v1/jobTypes")
        assert status == 200
        assert body["jobTypes"][0]["jobType"] == "email"


async def test_the_command_line_pauses_and_limits(
    embedded: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await stage.world.types.ensure(["email"], 10)

        async def selfheal(*arguments: str) -> tuple[int, str]:
            line = ["--control", plane.front.rpc.address, "type", *arguments]
            code = await asyncio.to_thread(main, line)
            return code, capsys.readouterr().out

        why = ("--reason", "they move", "--actor", "ada")
        code, out = await selfheal("pause", "email", "--until", "1h", *why)
        assert code == 0
        assert "they move" in out
        code, out = await selfheal("limit", "email", "3", "--json", *why)
        assert (code, json.loads(out)["concurrency"]) == (0, 3)
        code, out = await selfheal("list")
        assert code == 0
        assert "email" in out
        assert (await selfheal("resume", "email", *why))[0] == 0
        code, out = await selfheal("limit", "email", "none", "--json", *why)
        assert (code, "concurrency" in json.loads(out)) == (0, False)
        assert (await selfheal("get", "email"))[0] == 0
        assert (await selfheal("limit", "email", "few", *why))[0] == 2
        assert (await selfheal("get", "nobody"))[0] == 1
