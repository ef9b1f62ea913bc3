"""A burst over REST: every POST is accepted and every job runs."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.system.client import Client, eventually
from tests.system.fleet import Fleet

POSTS, AT_ONCE = 500, 50


async def test_five_hundred_posts_fifty_at_once_are_all_accepted(
    client: Client, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    job_type = fleet.job_type("burst")
    took: list[float] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def post(number: int) -> str:
        async with turns:
            began = time.perf_counter()
            job_id = await client.post_job(job_type, {"n": number})
            took.append(time.perf_counter() - began)
            return job_id

    began = time.perf_counter()
    jobs = await asyncio.gather(*(post(number) for number in range(POSTS)))
    seconds = time.perf_counter() - began

    took.sort()
    middle, high = took[POSTS // 2] * 1000, took[POSTS * 95 // 100] * 1000
    with capsys.disabled():
        kind = "embedded" if fleet.dev else "servers"
        print(f"\n{kind}: {POSTS} POSTs in {seconds:.1f} s, p50 {middle:.0f} ms, p95 {high:.0f} ms")
    assert len(set(jobs)) == POSTS
    done = await eventually(
        lambda: client.listed(f'job_type = "{job_type}" AND state = SUCCEEDED'),
        lambda found: len(found) == POSTS,
    )
    assert {job.job_id for job in done} == set(jobs)
