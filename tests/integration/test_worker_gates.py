"""Gates: a worker that fails alone, dependencies of several types, policies, and which job is the probe."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from selfheal.control.v1 import breaker_policy_pb2 as policy
from selfheal.control.v1 import breaker_service_pb2 as api
from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceStub

from jobkit import RetryLater, TransientError
from jobkit.domain.breaker import BreakerPolicy, BreakerState, Mode
from jobkit.domain.job import JobState
from jobkit.domain.policy import PolicyOverride
from jobkit.handling import JobContext
from tests.integration.stage import Place, Stage, Trade, eventually, succeed
from worker.app import WorkerApp

OPEN, CLOSED, HALF_OPEN = BreakerState.OPEN, BreakerState.CLOSED, BreakerState.HALF_OPEN


def reads(read: Callable[[], Any]) -> Callable[[], Any]:
    async def now() -> Any:
        return read()

    return now


def state_of(app: WorkerApp, name: str) -> BreakerState:
    return app.organs.breakers.of(name).record.state


def exiled(app: WorkerApp) -> list[str]:
    return app.organs.breakers.exiled


# -- node or fleet -----------------------------------------------------------------------------------------------


async def test_one_bad_worker_of_four_leaves_and_comes_back(real: Place) -> None:
    """Ejected after no more than the threshold and one, burning nobody else's jobs; the fleet's breaker stays closed;
    back by itself when cured."""
    trades = [Trade(real.type("email"), max_attempts=20) for _ in range(4)]
    bad = trades[0]
    name = bad.job_type

    async def work(job: JobContext) -> None:
        await asyncio.sleep(0.01)

    for trade in trades:
        trade.act = work
    async with Stage(real) as stage:
        await stage.jobapi()
        apps = [
            await stage.worker(t, WORKER_CONCURRENCY="1", COOLDOWN_PERIOD="1", MAX_COOLDOWN="4")
            for t in trades
        ]
        ids = await stage.submit_many(name, 80)
        await bad.began(5)
        done = len(bad.begun)
        bad.fail(lambda: TransientError("NETWORK_ERROR"))
        ids += await stage.submit_many(name, 160)
        await eventually(reads(lambda: exiled(apps[0])), lambda names: names == [name])
        assert len(bad.begun) - done <= 6
        bad.act = work

        async def still_out() -> list[str]:
            ids.append(await stage.submit(name))  # it needs a job to try
            return exiled(apps[0])

        await eventually(still_out, lambda names: names == [], patience=20)
        more = await stage.submit_many(name, 80)
        begun = len(bad.begun)
        await stage.all_reach([*ids, *more], JobState.SUCCEEDED, patience=40)
        assert len(bad.begun) > begun
        assert not any(exiled(app) for app in apps)
        for app in apps:
            assert app.organs.breakers.of(name).record.transitions == ()


async def test_a_worker_that_is_out_gets_its_trial_although_the_others_leave_nothing_waiting(
    real: Place,
) -> None:
    good, bad = Trade(real.type("email"), max_attempts=50), Trade(real.type("email"), max_attempts=50)
    name = bad.job_type
    async with Stage(real) as stage:
        await stage.jobapi()
        settings = {"COOLDOWN_PERIOD": "0.3", "MAX_COOLDOWN": "0.3"}
        apps = [await stage.worker(trade, **settings) for trade in (good, bad)]
        ids = await stage.submit_many(name, 200)
        await bad.began(5)
        await stage.all_reach(ids, JobState.SUCCEEDED)
        bad.fail(lambda: TransientError("NETWORK_ERROR"))

        async def trickle() -> list[str]:
            ids.append(await stage.submit(name))
            await asyncio.sleep(0.05)
            return exiled(apps[1])

        await eventually(trickle, lambda names: names == [name])
        bad.act = succeed
        await eventually(trickle, lambda names: names == [], patience=5)
        await stage.all_reach(ids, JobState.SUCCEEDED)


async def test_a_worker_that_stays_bad_stays_out_for_longer(real: Place) -> None:
    good, bad = Trade(real.type("email"), max_attempts=50), Trade(real.type("email"), max_attempts=50)
    name = bad.job_type
    async with Stage(real) as stage:
        await stage.jobapi()
        settings = {"WORKER_CONCURRENCY": "2", "COOLDOWN_PERIOD": "0.3", "MAX_COOLDOWN": "30"}
        apps = [await stage.worker(trade, **settings) for trade in (good, bad)]
        await stage.submit_many(name, 100)
        await bad.began(5)
        bad.fail(lambda: TransientError("NETWORK_ERROR"))
        good_work = good.act

        async def slowly(job: JobContext) -> None:
            await asyncio.sleep(0.05)

        good.act = slowly
        ids = await stage.submit_many(name, 200)
        exile = lambda: apps[1].organs.breakers.of(name).exile  # noqa: E731
        await eventually(reads(exile), lambda found: found is not None and found.times >= 2, patience=20)
        failed = sum(1 for job in await stage.all_reach(ids[:1], JobState.SUCCEEDED, 20) if job.attempts > 2)
        assert failed == 0
        assert state_of(apps[0], name) is CLOSED
        good.act = good_work
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=30)


async def test_an_outage_of_the_fleet_opens_and_is_no_workers_fault(real: Place) -> None:
    trades = [Trade(real.type("email"), max_attempts=20) for _ in range(3)]
    name = trades[0].job_type
    async with Stage(real) as stage:
        await stage.jobapi()
        apps = [await stage.worker(t, WORKER_CONCURRENCY="2", COOLDOWN_PERIOD="60") for t in trades]
        await stage.submit_many(name, 300)
        for trade in trades:
            await trade.began(20)
        for trade in trades:
            trade.fail(lambda: TransientError("API_TIMEOUT"))
        await stage.submit_many(name, 300)
        for app in apps:
            await eventually(reads(lambda app=app: state_of(app, name)), lambda state: state is OPEN)
        proof = apps[0].organs.breakers.of(name).record.transitions[-1].proof
        assert proof is not None
        assert len(proof.workers) >= 2
        assert 0 < len(proof.jobs) <= 5
        assert sum(proof.failures.values()) <= 25 + 6  # and what was in flight


# -- dependencies ------------------------------------------------------------------------------------------------


async def test_a_dependency_holds_all_its_types_and_lets_them_go(real: Place) -> None:
    smtp = real.type("smtp")
    email, letters = (Trade(real.type(n), depends_on=[smtp], max_attempts=9) for n in ("email", "letters"))
    other = Trade(real.type("sms"))
    breaker = f"@{smtp}"
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email, letters, other, WORKER_CONCURRENCY="2", COOLDOWN_PERIOD="1")
        control = await stage.controlplane()
        for trade in (email, letters):
            trade.fail(lambda: TransientError("SMTP_DOWN", dependency=smtp))
        ids = [*await stage.submit_many(email.job_type, 20), *await stage.submit_many(letters.job_type, 20)]
        await eventually(reads(lambda: state_of(app, breaker)), lambda state: state is not CLOSED)
        calls = len(email.begun) + len(letters.begun)
        assert calls <= 5 + 4 + 4  # the threshold, what was in flight, and probes
        assert state_of(app, email.job_type) is state_of(app, letters.job_type) is CLOSED
        job = await stage.reaches(ids[-1], JobState.QUARANTINED)
        assert job.quarantine is not None
        assert job.quarantine.breaker == breaker
        listed = (await stage.get(control, "/breakers"))[1]["breakers"]
        assert breaker in [b["jobType"] for b in listed]
        assert breaker not in await stage.world.types.all()
        sms = await stage.submit(other.job_type)
        await stage.reaches(sms, JobState.SUCCEEDED)

        for trade in (email, letters):
            trade.act = Trade("x").act
        await stage.all_reach(ids, JobState.SUCCEEDED, patience=30)
        assert state_of(app, breaker) is CLOSED


async def test_a_shared_dependency_needs_two_witnesses(real: Place) -> None:
    smtp = real.type("smtp")
    email, letters = (Trade(real.type(n), depends_on=[smtp], max_attempts=1) for n in ("email", "letters"))
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email, letters)
        await stage.submit_many(letters.job_type, 20)
        await letters.began(20)
        await asyncio.sleep(0.5)  # reported
        email.fail(lambda: TransientError("TEMPLATE_BROKEN"))
        await stage.submit_many(email.job_type, 30)
        await eventually(reads(lambda: state_of(app, email.job_type)), lambda state: state is OPEN)
        assert state_of(app, f"@{smtp}") is CLOSED
        job = await stage.submit(letters.job_type)
        await stage.reaches(job, JobState.SUCCEEDED)


async def test_a_dependency_can_be_reset_by_hand_and_exists_from_its_handler(real: Place) -> None:
    smtp = real.type("smtp")
    email = Trade(real.type("email"), depends_on=[smtp])
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        control = await stage.controlplane()
        status, _ = await stage.post(control, f"/breakers/@{smtp}/reset")
        assert status == 200
        status, _ = await stage.post(control, f"/v1/breakers/@{smtp}:open", json={"reason": "maintenance"})
        assert status == 200
        await eventually(reads(lambda: state_of(app, f"@{smtp}")), lambda state: state is OPEN)
        job = await stage.submit(email.job_type)
        await stage.reaches(job, JobState.QUARANTINED)
        assert email.begun == []
        status, _ = await stage.post(control, f"/breakers/@{smtp}/reset")
        await stage.reaches(job, JobState.SUCCEEDED)


async def test_a_dependency_that_asks_to_come_back_later_holds_all_its_types(real: Place) -> None:
    smtp = real.type("smtp")
    email, letters = (Trade(real.type(n), depends_on=[smtp]) for n in ("email", "letters"))
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email, letters)
        email.fail(lambda: RetryLater(40, scope="dependency"))
        await stage.submit(email.job_type)
        record = await eventually(
            reads(lambda: app.organs.breakers.of(f"@{smtp}").record), lambda found: found.state is OPEN
        )
        assert record.open_until - record.opened_at == 40_000
        held = await stage.submit(letters.job_type)
        await stage.reaches(held, JobState.QUARANTINED)
        assert letters.begun == []


# -- probes ------------------------------------------------------------------------------------------------------


async def test_one_bad_job_does_not_block_recovery(real: Place) -> None:
    """It is never the probe twice in a row while others wait, and its failed probes cost it nothing."""
    email = Trade(real.type("email"), max_attempts=30)
    bad: set[str] = set()

    async def act(job: JobContext) -> None:
        if not bad or job.job_id in bad:
            raise TransientError("API_TIMEOUT")

    email.act = act
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(
            email, WORKER_CONCURRENCY="1", COOLDOWN_PERIOD="0.5", MAX_COOLDOWN="0.5", RETRY_DELAY_MS="250"
        )
        ids = await stage.submit_many(email.job_type, 30)
        await eventually(reads(lambda: state_of(app, email.job_type)), lambda state: state is OPEN)
        waiting = [job_id for job_id in ids if job_id not in email.ids]
        bad.add(str(waiting[0]))
        await eventually(reads(lambda: state_of(app, email.job_type)), lambda state: state is CLOSED)
        probes = [job.job_id for job in email.begun]
        assert not any(a == b and a in bad for a, b in itertools.pairwise(probes))
        good = [job_id for job_id in ids if str(job_id) not in bad]
        await stage.all_reach(good, JobState.SUCCEEDED, patience=30)


async def test_as_many_probes_at_once_as_the_policy_says(embedded: Place) -> None:
    email = Trade(embedded.type("email"), max_attempts=30)
    async with Stage(embedded) as stage:
        await stage.jobapi()
        override = PolicyOverride(probes=3, success_threshold=3)
        await stage.world.policies.put("*", override, etag="0", actor="ann", reason="")
        app = await stage.worker(email, COOLDOWN_PERIOD="0.3", WORKER_CONCURRENCY="8")
        await app.organs.policies.read()
        email.fail(lambda: TransientError("API_TIMEOUT"))
        await stage.submit_many(email.job_type, 30)
        await eventually(reads(lambda: state_of(app, email.job_type)), lambda state: state is OPEN)
        await eventually(reads(lambda: email.running), lambda running: running == 0)
        email.most = 0
        go = email.hang()
        await eventually(reads(lambda: email.running), lambda running: running == 3)
        await asyncio.sleep(0.6)
        assert email.most == 3
        go.set()
        await eventually(reads(lambda: state_of(app, email.job_type)), lambda state: state is CLOSED)


# -- policies ----------------------------------------------------------------------------------------------------


def service(control: Any) -> Any:
    return grpc.aio.insecure_channel(control.front.rpc.address)


async def test_a_shadow_decides_and_never_holds_and_an_enforced_one_does(real: Place) -> None:
    email = Trade(real.type("email"), max_attempts=30)
    name = email.job_type
    async with Stage(real) as stage:
        await stage.jobapi()
        control = await stage.controlplane()
        path = f"/v1/breakerPolicies/{name}"
        shadow = {"policy": {"mode": "BREAKER_MODE_SHADOW"}, "reason": "to see", "actor": "ann"}
        status, answer = await stage.request("PATCH", control, path, json=shadow)
        assert (status, answer["policy"]["mode"]) == (200, "BREAKER_MODE_SHADOW")
        app = await stage.worker(email, COOLDOWN_PERIOD="60", WORKER_CONCURRENCY="1")
        await eventually(reads(lambda: app.organs.breakers.of(name).policy.mode), lambda m: m is Mode.SHADOW)
        email.fail(lambda: TransientError("API_TIMEOUT"))
        ids = await stage.submit_many(name, 40)
        await eventually(reads(lambda: state_of(app, name)), lambda state: state is OPEN)
        await email.began(40)  # nothing is held
        assert (await stage.job(ids[0])).quarantine is None

        enforced = {"policy": {"mode": "BREAKER_MODE_ENFORCED"}, "reason": "it was right"}
        status, answer = await stage.request("PATCH", control, path, json=enforced)
        assert status == 200
        await eventually(reads(lambda: app.organs.breakers.of(name).holds), lambda holds: holds)
        job = await stage.submit(name)
        await stage.reaches(job, JobState.QUARANTINED)
        assert state_of(app, name) is OPEN

        disabled = {"policy": {"mode": "BREAKER_MODE_DISABLED"}, "reason": "off"}
        status, _ = await stage.request("PATCH", control, path, json=disabled)
        email.act = Trade("x").act
        await stage.reaches(job, JobState.SUCCEEDED)
        assert state_of(app, name) is OPEN  # it survived


async def test_policies_over_grpc(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        control = await stage.controlplane()
        async with service(control) as channel:
            stub = BreakerServiceStub(channel)
            found = await stub.GetBreakerPolicy(api.GetBreakerPolicyRequest(breaker="mail.out"))
            assert found.policy == policy.BreakerPolicy(breaker="mail.out", etag="0")
            for pattern, cooldown in (("*", 5), ("mail.*", 7)):
                wanted = policy.BreakerPolicy(cooldown=Duration(seconds=cooldown), probes=cooldown)
                await stub.UpdateBreakerPolicy(
                    api.UpdateBreakerPolicyRequest(breaker=pattern, policy=wanted, actor="ann", reason="why")
                )
            wanted = policy.BreakerPolicy(probes=2, ignored_error_codes=policy.ErrorCodes(codes=["GONE"]))
            answer = await stub.UpdateBreakerPolicy(
                api.UpdateBreakerPolicyRequest(breaker="mail.out", policy=wanted)
            )
            assert (answer.policy.etag, answer.policy.actor) == ("3", "anonymous")
            found = await stub.GetBreakerPolicy(api.GetBreakerPolicyRequest(breaker="mail.out"))
            assert list(found.patterns) == ["*", "mail.*", "mail.out"]
            assert (found.effective.cooldown.seconds, found.effective.probes) == (7, 2)
            assert found.effective.failure_threshold == BreakerPolicy().failure_threshold  # the environment's
            listed = await stub.ListBreakerPolicies(api.ListBreakerPoliciesRequest(page_size=2))
            assert [p.breaker for p in listed.policies] == ["*", "mail.*"]
            listed = await stub.ListBreakerPolicies(
                api.ListBreakerPoliciesRequest(page_size=2, page_token=listed.next_page_token)
            )
            assert [p.breaker for p in listed.policies] == ["mail.out"]


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"policy": {"etag": "7", "probes": 2}}, 409, "ETAG_MISMATCH"),
        ({"policy": {"probes": 0}}, 400, "INVALID_FIELD"),
        ({"policy": {"failureRate": 1.5}}, 400, "INVALID_FIELD"),
        ({"policy": {"mode": 9}}, 400, "INVALID_FIELD"),
        ({"policy": {"breaker": "other"}}, 400, "INVALID_FIELD"),
        ({"policy": {"ignoredErrorCodes": {"codes": ["no good"]}}}, 400, "INVALID_FIELD"),
        ({"policy": {}, "updateMask": "nonsense"}, 400, "INVALID_FIELD"),
        ({"policy": {"probes": 2}, "reason": "x" * 501}, 400, "INVALID_FIELD"),
        ({"policy": {"probes": 2}, "validateOnly": True}, 200, None),
        ({"policy": {"etag": "1"}, "updateMask": "probes"}, 200, None),
    ],
)
async def test_what_a_change_of_policy_answers(
    embedded: Place, change: dict[str, Any], status: int, reason: str | None
) -> None:
    async with Stage(embedded) as stage:
        control = await stage.controlplane()
        first = PolicyOverride(probes=5)
        await stage.world.policies.put("email", first, etag="0", actor="ann", reason="")
        found, answer = await stage.request("PATCH", control, "/v1/breakerPolicies/email", json=change)
        assert found == status, answer
        if reason is not None:
            assert answer["error"]["details"][0]["reason"] == reason
        stored = await stage.world.policies.get("email")
        assert stored is not None
        kept = reason is not None or "validateOnly" in change
        assert stored.override == (first if kept else PolicyOverride())
