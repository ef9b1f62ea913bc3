"""QuarantineService on a running system: redrives, groups of failures, discarding; over gRPC and REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import pytest
from selfheal.control.v1 import quarantine_pb2 as wire
from selfheal.control.v1 import quarantine_service_pb2 as api
from selfheal.control.v1.quarantine_service_pb2_grpc import QuarantineServiceStub

from jobkit import JobContext, Permanent
from jobkit.client.calls import Caller, open_channel
from jobkit.client.errors import JobClientError
from jobkit.domain.filter import JobFilter
from jobkit.domain.job import JobState
from tests.integration.stage import Place, Stage, Trade, eventually, succeed


class Desk:
    """A client of QuarantineService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = QuarantineServiceStub(channel)
        self._call = Caller(timeout=10)

    async def redrive(self, filter_text: str = "", **fields: Any) -> wire.Redrive:
        request = api.RedriveJobsRequest(filter=filter_text, actor="ada", reason="it is back", **fields)
        return (await self._call(self.stub.RedriveJobs, request)).redrive

    async def get(self, redrive: wire.Redrive) -> wire.Redrive:
        request = api.GetRedriveRequest(redrive_id=redrive.redrive_id)
        return (await self._call(self.stub.GetRedrive, request)).redrive

    async def cancel(self, redrive: wire.Redrive) -> wire.Redrive:
        request = api.CancelRedriveRequest(redrive_id=redrive.redrive_id, actor="bob", reason="too soon")
        return (await self._call(self.stub.CancelRedrive, request)).redrive

    async def ask(self, method: str, request: Any) -> Any:
        return await self._call(getattr(self.stub, method), request)

    async def ends(self, redrive: wire.Redrive, patience: float = 20) -> wire.Redrive:
        running = wire.REDRIVE_STATE_RUNNING
        return await eventually(lambda: self.get(redrive), lambda r: r.state != running, patience)

    async def sent(self, redrive: wire.Redrive, count: int) -> wire.Redrive:
        return await eventually(lambda: self.get(redrive), lambda r: r.progress.redriven >= count)


@asynccontextmanager
async def desk_of(plane: Any) -> AsyncIterator[Desk]:
    async with open_channel(f"127.0.0.1:{plane.front.rpc.port}") as channel:
        yield Desk(channel)


def counts(progress: wire.RedriveProgress) -> dict[str, int]:
    """What is not zero."""
    return {field.name: value for field, value in progress.ListFields()}


async def quarantined(stage: Stage, trade: Trade, count: int) -> list[UUID]:
    """Jobs that waited for a person before the redrive begins; from now on they succeed."""
    trade.fail(lambda: Permanent("VALIDATION_ERROR", f"no mailbox a{len(trade.begun)}@example.com"))
    ids = await stage.submit_many(trade.job_type, count)
    # Counted, not read: to read 1,500 jobs a hundred times a second would leave the worker beside it no time.
    query = JobFilter(job_type=trade.job_type)
    await eventually(
        lambda: stage.world.quarantine.count(query, count), lambda found: sum(found.values()) == count, 30
    )
    trade.act = succeed
    trade.begun.clear()
    return ids


async def test_jobs_flow_again_and_progress_is_told(place: Place) -> None:
    email, sms = Trade(place.type("email")), Trade(place.type("sms"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email, sms)
        ids = await quarantined(stage, email, 30)
        others = await quarantined(stage, sms, 3)
        async with desk_of(plane) as desk:
            preview = await desk.redrive(f"job_type = {email.job_type}", validate_only=True)
            assert (preview.redrive_id, counts(preview.progress)) == ("", {"total": 30})
            redrive = await desk.redrive(f'job_type = "{email.job_type}"', rate=1000, request_id="again")
            assert (redrive.state, redrive.progress.total) == (wire.REDRIVE_STATE_RUNNING, 30)
            assert (redrive.rate, redrive.adaptive, redrive.actor) == (1000, False, "ada")
            same = await desk.redrive(f'job_type = "{email.job_type}"', rate=1000, request_id="again")
            assert same.redrive_id == redrive.redrive_id
            done = await desk.ends(redrive)
        assert done.state == wire.REDRIVE_STATE_DONE
        assert counts(done.progress) == {"total": 30, "redriven": 30, "succeeded": 30}
        assert sorted(email.ids) == ids  # each once
        jobs = await stage.all_reach(ids, JobState.SUCCEEDED)
        assert all((job.attempts, job.deliveries) == (2, 2) for job in jobs)
        await stage.all_reach(others, JobState.QUARANTINED)
        metrics = await stage.metrics(plane)
        assert metrics[f'selfheal_redrive_rate{{job_type="{email.job_type}"}}'] == 30 / 5


async def test_a_redrive_by_rest(embedded: Place) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)
        ids = await quarantined(stage, email, 5)
        _, groups = await stage.get(plane, "/v1/failureGroups")
        (group,) = groups["failureGroups"]
        assert (group["jobType"], group["code"], group["count"]) == ("email", "VALIDATION_ERROR", "5")
        assert group["shape"] == "no mailbox <email>"
        assert group["sampleJobIds"] == [str(job_id) for job_id in ids[:1:-1]]
        body = {"filter": f"failure_group = {group['failureGroup']}", "reason": "repaired"}
        status, made = await stage.post(plane, "/v1/redrives", json=body)
        assert (status, made["redrive"]["adaptive"]) == (200, True)
        path = f"/v1/redrives/{made['redrive']['redriveId']}"

        async def read() -> Any:
            return (await stage.get(plane, path))[1]["redrive"]

        done = await eventually(read, lambda r: r["state"] == "REDRIVE_STATE_DONE")
        assert done["progress"]["succeeded"] == "5"
        _, listed = await stage.get(plane, "/v1/redrives")
        assert [one["redriveId"] for one in listed["redrives"]] == [made["redrive"]["redriveId"]]
        status, refused = await stage.post(plane, f"{path}:cancel", json={"reason": "late"})
        assert (status, refused["error"]["status"]) == (400, "FAILED_PRECONDITION")
        _, groups = await stage.get(plane, "/v1/failureGroups")
        assert groups["failureGroups"] == []


async def test_what_fails_again_is_not_sent_again(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)
        ids = await quarantined(stage, email, 20)

        async def every_other(job: JobContext) -> None:
            if UUID(job.job_id) in ids[::2]:
                raise Permanent("VALIDATION_ERROR", "still wrong")

        email.act = every_other
        async with desk_of(plane) as desk:
            done = await desk.ends(await desk.redrive(rate=500))
        assert done.state == wire.REDRIVE_STATE_DONE
        assert counts(done.progress) == {"total": 20, "redriven": 20, "succeeded": 10, "failed": 10}
        assert sorted(email.ids) == ids


async def test_a_fixed_rate_is_kept(embedded: Place) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)
        await quarantined(stage, email, 40)
        async with desk_of(plane) as desk:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await desk.ends(await desk.redrive(rate=20))
            assert loop.time() - began >= 1.9


async def test_an_adaptive_one_slows_on_failures_and_gives_up(embedded: Place) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)
        ids = await quarantined(stage, email, 400)
        broken = asyncio.Event()

        async def act(job: JobContext) -> None:
            if broken.is_set():
                raise Permanent("VALIDATION_ERROR", "still wrong")

        email.act = act
        async with desk_of(plane) as desk:
            redrive = await desk.redrive()
            fast = await desk.sent(redrive, 10)
            assert fast.types[0].rate >= 4  # 1, 2, 4, …
            broken.set()
            stopped = await desk.ends(redrive, patience=60)
        assert stopped.state == wire.REDRIVE_STATE_STOPPED
        assert "nearly everything fails again" in stopped.end_reason
        assert stopped.progress.failed >= 9
        assert stopped.progress.redriven < 200
        left = [job_id for job_id in ids if (await stage.job(job_id)).state is JobState.QUARANTINED]
        assert len(left) > 200


async def test_a_held_type_waits_and_others_do_not(place: Place) -> None:
    email, sms = Trade(place.type("email")), Trade(place.type("sms"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email, sms)
        held, free = await quarantined(stage, email, 5), await quarantined(stage, sms, 5)
        breaker = f"/v1/breakers/{email.job_type}"
        assert (await stage.post(plane, f"{breaker}:open", json={"reason": "down"}))[0] == 200
        async with desk_of(plane) as desk:
            redrive = await desk.redrive(rate=1000)
            await stage.all_reach(free, JobState.SUCCEEDED)
            told = await eventually(
                lambda: desk.get(redrive), lambda r: {p.job_type: p.held for p in r.types}[email.job_type]
            )
            assert (told.state, told.progress.redriven) == (wire.REDRIVE_STATE_RUNNING, 5)
            for job_id in held:
                assert (await stage.job(job_id)).attempts == 1
            assert (await stage.post(plane, f"{breaker}:reset", json={"reason": "up"}))[0] == 200
            done = await desk.ends(redrive)
        assert counts(done.progress) == {"total": 10, "redriven": 10, "succeeded": 10}


async def test_a_cancelled_one_sends_nothing_more(place: Place) -> None:
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)
        ids = await quarantined(stage, email, 20)
        go = email.hang()
        async with desk_of(plane) as desk:
            redrive = await desk.redrive(rate=5)
            await desk.sent(redrive, 2)
            ended = await desk.cancel(redrive)
            sent = ended.progress.redriven
            assert (ended.state, ended.ended_by) == (wire.REDRIVE_STATE_CANCELLED, "bob")
            assert ended.end_reason == "too soon"
            await asyncio.sleep(1)
            assert (await desk.get(redrive)).progress.redriven == sent
            go.set()
            last = await eventually(lambda: desk.get(redrive), lambda r: not r.progress.under_way)
        assert counts(last.progress) == {"total": 20, "redriven": sent, "succeeded": sent}
        states = [(await stage.job(job_id)).state for job_id in ids]
        assert states == [JobState.SUCCEEDED] * sent + [JobState.QUARANTINED] * (20 - sent)
        assert states[-1] is JobState.QUARANTINED


async def test_two_control_planes_share_redrives(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        planes = [await stage.controlplane() for _ in range(2)]
        await stage.worker(email, WORKER_CONCURRENCY="50")
        ids = await quarantined(stage, email, 1500)
        async with desk_of(planes[0]) as desk, desk_of(planes[1]) as other:
            redrives = [await desk.redrive(rate=5000), await other.redrive(rate=5000)]
            done = [await other.ends(redrives[0]), await desk.ends(redrives[1])]
        assert sum(one.progress.succeeded for one in done) == 1500
        assert sum(one.progress.redriven for one in done) == 1500
        assert all(one.progress.redriven + one.progress.skipped == 1500 for one in done)
        assert sorted(email.ids) == ids


async def test_one_without_a_broker_waits_in_quarantine(real: Place) -> None:
    """What cannot be published had better stay where it is."""
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        worker = await stage.worker(email)
        ids = await quarantined(stage, email, 3)
        await stage.leave(worker)
        await stage.leave(plane)
        plane = await stage.controlplane(RABBITMQ_URL="amqp://guest:guest@127.0.0.1:1/")
        async with desk_of(plane) as desk:
            redrive = await desk.redrive(rate=1000)
            await asyncio.sleep(1)
            assert (await desk.get(redrive)).progress.redriven == 0
            await stage.controlplane()
            await stage.worker(email)
            done = await desk.ends(redrive)
        assert counts(done.progress) == {"total": 3, "redriven": 3, "succeeded": 3}
        assert sorted(email.ids) == ids


async def test_jobs_are_discarded_in_bulk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.quarantine.MAX_DISCARDED", 700)
    email, sms = Trade(place.type("email")), Trade(place.type("sms"))
    async with Stage(place) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email, sms)
        ids, others = await quarantined(stage, email, 1100), await quarantined(stage, sms, 2)
        watched = asyncio.create_task(stage.api.jobs.wait(ids[0], None))
        async with desk_of(plane) as desk:
            request = api.DiscardJobsRequest(
                filter=f"job_type = {email.job_type}", actor="ada", reason="sent by hand", validate_only=True
            )
            assert (await desk.ask("DiscardJobs", request)).count == 1100
            request.validate_only = False
            answers = [await desk.ask("DiscardJobs", request) for _ in range(3)]
        assert [(answer.count, answer.more) for answer in answers] == [(700, True), (400, False), (0, False)]
        name = f'selfheal_jobs_finished_total{{job_type="{email.job_type}",outcome="discarded"}}'
        assert (await stage.metrics(plane))[name] == 1100
        await stage.all_reach(ids, JobState.DISCARDED)
        await stage.all_reach(others, JobState.QUARANTINED)
        await watched


async def test_groups_come_in_pages(embedded: Place) -> None:
    email = Trade("email")
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)

        async def fail(job: JobContext) -> None:
            raise Permanent(f"CODE_{job.payload['code']}", f"number {job.payload['n']}")

        email.act = fail
        ids = [await stage.submit("email", {"code": n % 3, "n": n}) for n in range(9)]
        await stage.all_reach(ids, JobState.QUARANTINED)
        async with desk_of(plane) as desk:
            request = api.ListFailureGroupsRequest(page_size=2)
            first = await desk.ask("ListFailureGroups", request)
            request.page_token = first.next_page_token
            second = await desk.ask("ListFailureGroups", request)
        groups = [*first.failure_groups, *second.failure_groups]
        assert (len(first.failure_groups), second.next_page_token) == (2, "")
        assert {group.code for group in groups} == {"CODE_0", "CODE_1", "CODE_2"}
        for group in groups:
            assert (group.count, group.shape) == (3, "number <n>")
            last = group.last_time.ToDatetime(tzinfo=UTC)
            assert group.first_time.ToDatetime(tzinfo=UTC) <= last <= datetime.now(UTC)


BAD: list[tuple[str, Any, str, str]] = [
    ("RedriveJobs", api.RedriveJobsRequest(rate=0), "INVALID_FIELD", "rate"),
    ("RedriveJobs", api.RedriveJobsRequest(rate=float("nan")), "INVALID_FIELD", "rate"),
    ("RedriveJobs", api.RedriveJobsRequest(rate=10_001), "INVALID_FIELD", "rate"),
    ("RedriveJobs", api.RedriveJobsRequest(request_id="a b"), "INVALID_FIELD", "request_id"),
    ("RedriveJobs", api.RedriveJobsRequest(reason="x" * 501), "INVALID_FIELD", "reason"),
    ("RedriveJobs", api.RedriveJobsRequest(filter="owner = me"), "INVALID_FILTER", "filter"),
    ("RedriveJobs", api.RedriveJobsRequest(filter="state = RUNNING"), "INVALID_FILTER", "filter"),
    ("RedriveJobs", api.RedriveJobsRequest(rate=0, validate_only=True), "INVALID_FIELD", "rate"),
    (
        "RedriveJobs",
        api.RedriveJobsRequest(filter="quarantine.reason = BREAKER_OPEN"),
        "INVALID_FILTER",
        "filter",
    ),
    ("DiscardJobs", api.DiscardJobsRequest(filter=" "), "INVALID_FIELD", "filter"),
    ("DiscardJobs", api.DiscardJobsRequest(filter="state = QUEUED"), "INVALID_FILTER", "filter"),
    ("DiscardJobs", api.DiscardJobsRequest(actor="x" * 501, filter="a"), "INVALID_FIELD", "actor"),
    ("DiscardJobs", api.DiscardJobsRequest(validate_only=True), "INVALID_FIELD", "filter"),
    ("ListFailureGroups", api.ListFailureGroupsRequest(page_size=-1), "INVALID_FIELD", "page_size"),
    ("ListFailureGroups", api.ListFailureGroupsRequest(page_token="x"), "INVALID_FIELD", "page_token"),
    (
        "ListFailureGroups",
        api.ListFailureGroupsRequest(page_token="_" * 21 + "w=="),
        "INVALID_FIELD",
        "page_token",
    ),
    ("ListRedrives", api.ListRedrivesRequest(page_size=-1), "INVALID_FIELD", "page_size"),
    ("ListRedrives", api.ListRedrivesRequest(page_token="x"), "INVALID_FIELD", "page_token"),
    ("GetRedrive", api.GetRedriveRequest(redrive_id="x"), "REDRIVE_NOT_FOUND", ""),
    ("CancelRedrive", api.CancelRedriveRequest(redrive_id=str(UUID(int=7))), "REDRIVE_NOT_FOUND", ""),
]


async def test_bad_requests(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        async with desk_of(plane) as desk:
            for method, request, reason, field in BAD:
                with pytest.raises(JobClientError) as caught:
                    await desk.ask(method, request)
                assert caught.value.reason == reason, request
                assert [v.path for v in caught.value.violations] == ([field] if field else []), request
