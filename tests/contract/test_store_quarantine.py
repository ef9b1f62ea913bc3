"""The `Quarantine` port: counting, discarding, groups of failures."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.tables import jobs
from jobkit.domain.failure import group_name, group_of
from jobkit.domain.filter import JobFilter, parse_filter
from jobkit.domain.job import JobError, JobState, QuarantineReason
from jobkit.domain.retry import Isolate
from jobkit.ports import GroupToken
from tests.contract.store_contract import OTHER_SESSION, OnPostgres, OnSqlite, Store, StoreContract

START = UUID(int=0)
ALL = JobFilter()
REFUSED = JobError("NETWORK_ERROR", "connection to 10.0.0.1:25 refused")
REFUSED_TOO = JobError("NETWORK_ERROR", "connection to 10.0.0.23:2525 refused")


class CountContract(StoreContract):
    async def test_only_what_waits_for_a_person_counts(self, store: Store) -> None:
        for reason in (r for r in QuarantineReason if r is not QuarantineReason.BREAKER_OPEN):
            await store.isolated(reason=reason)
        await store.isolated("sms")
        for job_type in ("email", "held"):
            await store.submit(job_type)
        await store.hold("held")
        await store.running()
        await store.succeeded()
        await store.discarded()
        assert await store.quarantine.count(ALL, 100) == {"email": 3, "sms": 1}
        assert sum((await store.quarantine.count(ALL, 2)).values()) == 2

    async def test_every_field_of_a_filter_counts(self, store: Store) -> None:
        group = group_name(group_of("email", REFUSED.code, REFUSED.message))
        chosen = await store.isolated(
            reason=QuarantineReason.POISON, error=REFUSED, labels={"team": "core", "n": "1"}, request_id="r1"
        )
        await store.isolated(labels={"team": "core"})
        await store.isolated("sms")
        created = (await store.get(chosen)).create_time
        for text in (
            "quarantine.reason = POISON",
            "error.code = NETWORK_ERROR",
            "labels.team = core AND labels.n = 1",
            "request_id = r1",
            f"failure_group = {group}",
            f'create_time >= "{created.isoformat()}" AND create_time < "2999-01-01T00:00:00Z" AND labels.n = 1',
        ):
            assert await store.quarantine.count(parse_filter(text), 10) == {"email": 1}, text
        assert await store.quarantine.count(parse_filter("job_type = email"), 10) == {"email": 2}
        for text in (
            'create_time < "2001-01-01T00:00:00Z"',
            "job_type = a AND job_type = b",
            "failure_group = 0123456789abcdef",
        ):
            assert await store.quarantine.count(parse_filter(text), 10) == {}

    async def test_a_list_by_group_finds_quarantined_jobs_only(self, store: Store) -> None:
        group = group_name(group_of("email", REFUSED.code, REFUSED.message))
        ids = [await store.isolated(error=error) for error in (REFUSED, REFUSED_TOO)]
        await store.isolated()
        query = parse_filter(f"failure_group = {group}")
        page, _ = await store.reader.page(query, 10, None)
        assert [job.job_id for job in page] == ids[::-1]
        await store.steering.retry(ids[0], None, OTHER_SESSION)
        page, _ = await store.reader.page(query, 10, None)
        assert [job.job_id for job in page] == ids[1:]


class BulkDiscardContract(StoreContract):
    async def test_they_are_given_up_in_order_and_for_good(self, store: Store) -> None:
        ids = [await store.isolated() for _ in range(5)]
        other = await store.isolated("sms")
        first = await store.quarantine.discard("email", ALL, START, 2)
        assert first == ids[:2]
        assert await store.quarantine.discard("email", ALL, first[-1], 10) == ids[2:]
        assert await store.quarantine.discard("email", ALL, START, 10) == []
        for job_id in ids:
            job = await store.get(job_id)
            assert (job.state, job.quarantine) == (JobState.DISCARDED, None)
            assert job.finish_time is not None
        assert (await store.get(other)).state is JobState.QUARANTINED

    async def test_what_does_not_match_stays(self, store: Store) -> None:
        poison = await store.isolated(reason=QuarantineReason.POISON)
        held, running = await store.submit(), await store.running()
        await store.hold()
        query = parse_filter("quarantine.reason = NON_RETRYABLE")
        assert await store.quarantine.discard("email", query, START, 10) == []
        assert await store.quarantine.discard("email", ALL, START, 10) == [poison]
        assert (await store.row(held)).state == "QUEUED"
        assert (await store.row(running)).state == "RUNNING"

    async def test_a_retry_at_the_same_time_is_one_or_the_other(self, store: Store) -> None:
        for _ in range(10):
            job_id = await store.isolated()
            discarded, retried = await asyncio.gather(
                store.quarantine.discard("email", ALL, START, 10),
                store.steering.retry(job_id, None, OTHER_SESSION),
                return_exceptions=True,
            )
            state = (await store.row(job_id)).state
            assert state == ("DISCARDED" if discarded == [job_id] else "QUEUED"), (discarded, retried)


class GroupContract(StoreContract):
    async def test_alike_failures_are_one_group(self, store: Store) -> None:
        ids = [await store.isolated(error=error) for error in (REFUSED, REFUSED_TOO, REFUSED, REFUSED_TOO)]
        await store.isolated("sms", error=REFUSED)
        await store.isolated(error=JobError("NETWORK_ERROR", "no route"))
        for at, job_id in enumerate(ids):
            await store.set(job_id, quarantined_at=1_000 * (at + 1))
        groups = await store.quarantine.groups(ALL, 10, None)
        assert [group.count for group in groups] == [4, 1, 1]
        first = groups[0]
        assert (first.job_type, first.code, first.message) == ("email", "NETWORK_ERROR", REFUSED_TOO.message)
        assert first.group == group_of("email", REFUSED.code, REFUSED.message)
        begin = datetime.fromtimestamp(1, UTC)
        assert (first.first_time, first.last_time) == (begin, begin + timedelta(seconds=3))
        assert first.sample_job_ids == tuple(ids[:0:-1])

    async def test_pages_follow_one_another(self, store: Store) -> None:
        for number, name in enumerate(("alpha", "beta", "gamma", "delta")):
            for _ in range(1 + number // 2):
                await store.isolated(error=JobError("E", name))
        pages, after = [], None
        while page := await store.quarantine.groups(ALL, 1, after):
            pages.append((page[0].count, page[0].message))
            after = GroupToken(page[0].count, page[0].group)
        assert len(pages) == 4
        assert [count for count, _ in pages] == [2, 2, 1, 1]
        assert {message for _, message in pages} == {"alpha", "beta", "gamma", "delta"}

    async def test_a_filter_chooses_the_jobs(self, store: Store) -> None:
        await store.isolated(error=REFUSED)
        await store.isolated("sms", error=REFUSED)
        (group,) = await store.quarantine.groups(parse_filter("job_type = sms"), 10, None)
        assert (group.job_type, group.count) == ("sms", 1)
        assert await store.quarantine.groups(parse_filter("job_type = a AND job_type = b"), 10, None) == []

    @pytest.mark.parametrize("leave", ["retry", "discard", "cancel"])
    async def test_who_leaves_quarantine_leaves_its_group(self, store: Store, leave: str) -> None:
        job_id, stays = await store.isolated(), await store.isolated()
        if leave == "retry":
            await store.steering.retry(job_id, None, OTHER_SESSION)
        elif leave == "discard":
            await store.steering.discard(job_id)
        else:
            await store.steering.cancel(job_id)
        (group,) = await store.quarantine.groups(ALL, 10, None)
        assert (group.count, group.sample_job_ids) == (1, (stays,))

    async def test_who_fails_otherwise_the_next_time_is_in_another_group(self, store: Store) -> None:
        job_id = await store.isolated()
        await store.steering.retry(job_id, None, OTHER_SESSION)
        await store.claim(job_id)
        assert await store.settle(job_id, 2, Isolate(QuarantineReason.POISON, REFUSED))
        (group,) = await store.quarantine.groups(ALL, 10, None)
        assert (group.code, group.count) == ("NETWORK_ERROR", 1)

    async def test_what_an_earlier_release_quarantined_is_grouped_later(self, store: Store) -> None:
        ids = [await store.isolated(error=REFUSED) for _ in range(5)]
        await store.execute(sa.update(jobs).values(failure_group=None))
        assert await store.quarantine.groups(ALL, 10, None) == []
        assert [await store.quarantine.group_new(3) for _ in range(3)] == [3, 2, 0]
        (group,) = await store.quarantine.groups(ALL, 10, None)
        assert (group.count, group.sample_job_ids) == (5, tuple(ids[:1:-1]))


class TestSqliteQuarantine(OnSqlite, CountContract, BulkDiscardContract, GroupContract):
    pass


class TestPostgresQuarantine(OnPostgres, CountContract, BulkDiscardContract, GroupContract):
    pass
