"""`selfheal quarantine …` against a running system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.system.fleet import Fleet
from tests.system.test_command_line import Run, Said, selfheal  # noqa: F401 - a fixture

COUNT = 3


@pytest.fixture
async def repairable(selfheal: Run, embedded_fleet: Fleet) -> AsyncIterator[str]:  # noqa: F811
    """A type with jobs in quarantine, whose second runs will succeed; nothing of it is left in quarantine."""
    job_type = embedded_fleet.job_type(f"cli-quarantine-{id(object())}")
    simulate = {"failWith": "VALIDATION_ERROR", "failAttempts": 1}
    payload = orjson.dumps({"simulate": simulate}).decode()
    ended = await asyncio.gather(
        *(selfheal("job", "submit", job_type, payload, "--wait") for _ in range(COUNT))
    )
    assert [said.code for said in ended] == [1] * COUNT
    yield job_type
    await selfheal("quarantine", "discard", "--filter", f"job_type = {job_type}", "--reason", "tidy up")


def lines(said: Said) -> list[dict[str, Any]]:
    assert said.code == 0, said.err
    return [orjson.loads(line) for line in said.out.splitlines()]


async def test_failures_are_seen_and_redriven(selfheal: Run, repairable: str) -> None:  # noqa: F811
    mine = ("--filter", f'job_type = "{repairable}"')
    groups, table, jobs, limited = await asyncio.gather(
        selfheal("quarantine", "groups", *mine, "--json"),
        selfheal("quarantine", "groups", *mine),
        selfheal("quarantine", "list", *mine, "--json"),
        selfheal("quarantine", "list", *mine, "--limit", "1", "--json"),
    )
    (group,) = lines(groups)
    assert (group["jobType"], group["code"], group["count"]) == (repairable, "VALIDATION_ERROR", str(COUNT))
    assert group["failureGroup"] in table.out
    assert group["shape"] in table.out
    assert [job["jobId"] for job in lines(jobs)] == group["sampleJobIds"]
    assert len(lines(limited)) == 1

    dry = await selfheal("quarantine", "redrive", *mine, "--dry-run", "--json")
    assert (dry.json["redriveId"], dry.json["progress"]["total"]) == ("", str(COUNT))
    of_group = ("--filter", f"failure_group = {group['failureGroup']}", "--reason", "repaired")
    done = await selfheal("quarantine", "redrive", *of_group, "--actor", "ann", "--rate", "20", "--wait")
    assert done.code == 0, done.err
    for text in ("DONE", f"{COUNT} of {COUNT} sent, {COUNT} succeeded", "ann", "repaired", "20 jobs/s"):
        assert text in done.out
    assert "sent" in done.err
    redrives = lines(await selfheal("quarantine", "redrives", "--limit", "5", "--json"))
    shown = await selfheal("quarantine", "get", redrives[0]["redriveId"], "--json")
    assert shown.json == redrives[0]
    assert lines(await selfheal("quarantine", "list", *mine, "--json")) == []


async def test_one_is_cancelled_and_the_rest_discarded(selfheal: Run, repairable: str) -> None:  # noqa: F811
    mine = ("--filter", f"job_type = {repairable}")
    begun = await selfheal(
        "quarantine", "redrive", *mine, "--rate", "0.1", "--reason", "slowly", "--wait", "0.1", "--json"
    )
    assert (begun.code, begun.json["state"]) == (1, "REDRIVE_STATE_RUNNING")
    redrive_id = begun.json["redriveId"]
    ended = await selfheal("quarantine", "cancel", redrive_id, "--reason", "too slow")
    assert ended.code == 0
    assert "CANCELLED" in ended.out
    assert "too slow" in ended.out
    dry = await selfheal("quarantine", "discard", *mine, "--dry-run")
    left = int(dry.out.split()[0])
    assert left in (COUNT - 1, COUNT)
    gone = await selfheal("quarantine", "discard", *mine, "--reason", "by hand", "--json")
    assert (gone.code, gone.json) == (0, {"count": str(left), "more": False})


async def test_what_is_wrong_is_told(selfheal: Run) -> None:  # noqa: F811
    cases = (
        (("redrive", "--filter", "owner = me", "--reason", "x"), 1, "INVALID_FILTER"),
        (("redrive", "--rate", "0", "--reason", "x"), 1, "rate"),
        (("redrive",), 2, "--reason"),
        (("discard", "--reason", "x"), 2, "--filter"),
        (("discard", "--filter", "", "--reason", "x"), 1, "filter"),
        (("get", "nonsense"), 1, "REDRIVE_NOT_FOUND"),
        (("cancel", "nonsense", "--reason", "x"), 1, "REDRIVE_NOT_FOUND"),
    )
    answers = await asyncio.gather(*(selfheal("quarantine", *arguments) for arguments, _, _ in cases))
    for (arguments, code, text), said in zip(cases, answers, strict=True):
        assert (said.code, text in said.err) == (code, True), (arguments, said)
