"""The `selfheal` command and `JobClient` against a running system."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobkit import JobClient
from jobkit.client import RequestIdReused, Submission, WrongState
from tests.system.fleet import SELFHEAL, Fleet, clean_environ

MAKEFILE = Path(__file__).parents[2] / "Makefile"


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


Run = Callable[..., Awaitable[Said]]


@pytest.fixture
def selfheal(embedded_fleet: Fleet) -> Run:
    """Runs `selfheal …` against the fleet; its own addresses come from the environment."""
    ports = embedded_fleet.ports
    environ = {"SELFHEAL_API": ports.grpc("jobapi"), "SELFHEAL_CONTROL": ports.grpc("controlplane")}

    async def run(*arguments: str) -> Said:
        done = await asyncio.to_thread(
            subprocess.run,
            [SELFHEAL, *arguments],
            env={**clean_environ(), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    return run


async def test_a_job_is_submitted_waited_for_read_and_listed(selfheal: Run, embedded_fleet: Fleet) -> None:
    job_type = embedded_fleet.job_type("cli")
    submitted = await selfheal(
        "job", "submit", job_type, '{"n": 1}', "--wait", "--json", "--label", "from=cli"
    )
    job = submitted.json
    assert (submitted.code, job["state"], job["payload"]) == (0, "JOB_STATE_SUCCEEDED", {"n": 1})

    shown, as_json, listed = await asyncio.gather(
        selfheal("job", "get", job["jobId"]),
        selfheal("job", "get", job["jobId"], "--json"),
        selfheal("job", "list", "--filter", f'job_type = "{job_type}" AND labels.from = "cli"', "--json"),
    )
    assert shown.code == 0
    assert job["jobId"] in shown.out
    assert "SUCCEEDED" in shown.out
    assert as_json.json["jobId"] == job["jobId"]
    assert [orjson.loads(line)["jobId"] for line in listed.out.splitlines()] == [job["jobId"]]
    late = await selfheal("job", "cancel", job["jobId"])
    assert (late.code, "JOB_NOT_CANCELLABLE" in late.err) == (1, True)


async def test_a_breaker_is_opened_closed_and_reset_with_a_reason(
    selfheal: Run, embedded_fleet: Fleet
) -> None:
    job_type = embedded_fleet.job_type("cli-breaker")
    await selfheal("job", "submit", job_type, "{}", "--wait")
    opened = await selfheal(
        "breaker", "open", job_type, "--reason", "maintenance", "--actor", "ann", "--until", "10m", "--json"
    )
    breaker = opened.json
    assert (opened.code, breaker["state"], breaker["forced"]) == (0, "BREAKER_STATE_OPEN", True)
    move = breaker["transitions"][-1]
    assert (move["actor"], move["reason"], move["cause"]) == (
        "ann",
        "maintenance",
        "TRANSITION_CAUSE_OPERATOR",
    )

    held = await selfheal("job", "submit", job_type, "{}", "--wait", "0.2", "--json")
    assert held.code == 1
    listed = await selfheal("breaker", "list")
    assert re.search(rf"{re.escape(job_type)}\s+OPEN\s", listed.out)
    cancelled = await selfheal("job", "cancel", held.json["jobId"], "--json")
    assert (cancelled.code, cancelled.json["state"]) == (0, "JOB_STATE_CANCELLED")
    closed = await selfheal("breaker", "close", job_type, "--reason", "checked", "--json")
    assert closed.json["state"] == "BREAKER_STATE_CLOSED"
    reset = await selfheal("breaker", "reset", job_type, "--reason", "done", "--json")
    assert (reset.json["state"], reset.json.get("forced", False)) == ("BREAKER_STATE_CLOSED", False)
    assert [move["reason"] for move in reset.json["transitions"]] == ["maintenance", "checked", "done"]


async def test_an_error_exits_with_one_and_a_misuse_with_two(selfheal: Run) -> None:
    unknown, misuse, nobody = await asyncio.gather(
        selfheal("job", "get", "nothing"), selfheal("job", "get"), selfheal("breaker", "get", "nobody")
    )
    assert (unknown.code, "JOB_NOT_FOUND" in unknown.err) == (1, True)
    assert (misuse.code, nobody.code) == (2, 1)


@pytest.mark.parametrize("target", ["test-job", "check-breaker"])
async def test_the_makefile_says_it_so(selfheal: Run, target: str) -> None:
    recipe = re.search(rf"^{target}:.*\n\t@\$\(BIN\)/selfheal (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert recipe is not None
    said = await selfheal(*shlex.split(recipe[1]))
    assert said.code == 0, said.err


async def test_a_python_program_submits_and_follows_jobs(fleet: Fleet) -> None:
    job_type = fleet.job_type("python")
    async with JobClient(fleet.ports.grpc("jobapi")) as client:
        job = await client.submit(job_type, {"n": 1}, request_id=fleet.job_type("key"), labels={"a": "b"})
        again = await client.submit(job_type, {"n": 1}, request_id=job.request_id, labels={"a": "b"})
        assert (again.job_id, job.existed, again.existed) == (job.job_id, False, True)
        with pytest.raises(RequestIdReused):
            await client.submit(job_type, {"n": 2}, request_id=job.request_id)
        done = await client.wait(job.job_id)
        assert (done.succeeded, done.attempts, done.result) == (True, 1, {"simulated": True})
        with pytest.raises(WrongState):
            await client.cancel(job.job_id)

        answers = await client.submit_many(
            [*(Submission(job_type, {"n": n}) for n in range(1500)), Submission("*")]
        )
        assert [type(answer).__name__ for answer in answers[-2:]] == ["Job", "InvalidRequest"]
        assert len({answer.job_id for answer in answers[:-1]}) == 1500  # type: ignore[union-attr]
        bad = await client.submit(fleet.handled("picky"), {})
        assert (await client.wait(bad.job_id)).quarantine.reason == "NON_RETRYABLE"  # type: ignore[union-attr]
        await client.retry(bad.job_id, {"good": True})
        assert (await client.wait(bad.job_id)).succeeded
        assert len([job async for job in client.list(f'job_type = "{job_type}"', page_size=400)]) == 1501
