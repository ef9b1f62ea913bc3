"""The `JobReader` port: one job, and pages of many, with holds applied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from uuid import UUID

import pytest

from jobkit.domain.filter import JobFilter, PageToken, parse_filter
from jobkit.domain.job import Job, JobError, JobState, QuarantineReason
from jobkit.domain.retry import Isolate, Retry
from tests.contract.store_contract import (
    TIMED_OUT,
    OnPostgres,
    OnSqlite,
    Store,
    StoreContract,
    at_millis,
    new_id,
    new_job,
)

STATES = {
    "pending": "PENDING",
    "queued": "QUEUED",
    "running": "RUNNING",
    "due": "RETRYING",
    "later": "RETRYING",
    "isolated": "QUARANTINED",
    "succeeded": "SUCCEEDED",
    "cancelled": "CANCELLED",
    "discarded": "DISCARDED",
}


async def one_of_each(store: Store, job_type: str = "email") -> dict[str, UUID]:
    """A job in every state; `due` and `later` are RETRYING with their time come and not."""
    due = await store.retrying(job_type)
    await store.set(due, due_at=await store.database.now() - 1)
    return {
        "pending": await store.submit(job_type, session=None),
        "queued": await store.submit(job_type),
        "running": await store.running(job_type),
        "due": due,
        "later": await store.retrying(job_type),
        "isolated": await store.isolated(job_type),
        "succeeded": await store.succeeded(job_type),
        "cancelled": await store.cancelled(job_type),
        "discarded": await store.discarded(job_type),
    }


async def everything(store: Store, query: JobFilter, size: int) -> AsyncIterator[list[Job]]:
    after: PageToken | None = None
    while True:
        page, after = await store.reader.page(query, size, after)
        yield page
        if after is None:
            return


async def listed(store: Store, text: str, size: int = 3) -> list[UUID]:
    """All ids that a filter finds, page by page; asserts what every page promises."""
    pages = [page async for page in everything(store, parse_filter(text), size)]
    assert all(len(page) == size for page in pages[:-1])
    found = [job.job_id for page in pages for job in page]
    assert found == sorted(set(found), reverse=True)
    return found


def named(names: Mapping[str, UUID], found: list[UUID]) -> set[str]:
    of = {job_id: name for name, job_id in names.items()}
    return {of[job_id] for job_id in found}


class GetContract(StoreContract):
    async def test_unknown_jobs_are_left_out(self, store: Store) -> None:
        job_id = await store.submit()
        assert set(await store.reader.get([job_id, new_id()])) == {job_id}
        assert await store.reader.get([]) == {}

    async def test_every_state_reads_as_itself_while_nothing_is_held(self, store: Store) -> None:
        jobs = await one_of_each(store)
        found = await store.reader.get(list(jobs.values()))
        assert {name: found[job_id].state.value for name, job_id in jobs.items()} == STATES
        assert found[jobs["isolated"]].quarantine is not None
        for name in set(jobs) - {"isolated"}:
            assert found[jobs[name]].quarantine is None

    async def test_what_waits_reads_as_held_while_its_type_is(self, store: Store) -> None:
        jobs, others = await one_of_each(store), await one_of_each(store, "sms")
        await store.hold()
        info = (await store.types.all())["email"]
        assert info.held_since is not None
        assert info.held_until is not None
        found = await store.reader.get([*jobs.values(), *others.values()])
        for name in ("pending", "queued", "due"):
            job = found[jobs[name]]
            assert job.state is JobState.QUARANTINED
            assert job.quarantine is not None
            assert job.quarantine.reason is QuarantineReason.BREAKER_OPEN
            assert job.quarantine.breaker == "email"
            assert job.quarantine.since >= at_millis(info.held_since)
            assert job.quarantine.until == at_millis(info.held_until)
            assert job.holds == 1
            assert not job.settled
        for name in set(jobs) - {"pending", "queued", "due"}:
            assert found[jobs[name]].state.value == STATES[name]
        assert {name: found[job_id].state.value for name, job_id in others.items()} == STATES
        await store.lift()
        assert (await store.get(jobs["queued"])).state is JobState.QUEUED

    async def test_waiting_jobs_are_counted_up_to_a_limit(self, store: Store) -> None:
        await one_of_each(store)
        for _ in range(3):
            await store.submit("sms")
        await store.hold("sms")
        counted = await store.reader.count_waiting_of(["email", "sms", "none"], 100)
        assert counted == {"email": 4, "sms": 3, "none": 0}
        assert await store.reader.count_waiting_of(["email", "sms"], 2) == {"email": 2, "sms": 2}
        assert await store.reader.count_waiting_of([], 2) == {}


class PageContract(StoreContract):
    async def test_pages_are_newest_first_and_complete(self, store: Store) -> None:
        ids = [await store.submit("email" if n % 2 else "sms") for n in range(7)]
        assert await listed(store, "") == ids[::-1]
        assert await listed(store, "", size=7) == ids[::-1]
        assert await listed(store, "job_type = email", size=1) == ids[1::2][::-1]
        assert await listed(store, "job_type = unheard-of") == []

    @pytest.mark.parametrize("held", [False, True], ids=["nothing is held", "email is held"])
    async def test_filters_by_state_see_what_readers_see(self, store: Store, held: bool) -> None:
        emails, texts = await one_of_each(store), await one_of_each(store, "sms")
        if held:
            await store.hold()
        jobs = {f"email {n}": i for n, i in emails.items()} | {f"sms {n}": i for n, i in texts.items()}
        read = await store.reader.get(list(jobs.values()))
        for state in JobState:
            expected = {n for n, i in jobs.items() if read[i].state is state}
            assert named(jobs, await listed(store, f"state = {state}")) == expected
            of_type = {n for n in expected if n.startswith("email")}
            assert named(jobs, await listed(store, f"state = {state} AND job_type = email")) == of_type
        for reason in QuarantineReason:
            expected = {
                n for n, i in jobs.items() if (q := read[i].quarantine) is not None and q.reason is reason
            }
            assert named(jobs, await listed(store, f"quarantine.reason = {reason}")) == expected
            both = f"quarantine.reason = {reason} AND state = QUARANTINED"
            assert named(jobs, await listed(store, both)) == expected
            of_type = {n for n in expected if n.startswith("email")}
            assert named(jobs, await listed(store, f"{both} AND job_type = email")) == of_type
            assert await listed(store, f"quarantine.reason = {reason} AND state = QUEUED") == []

    @pytest.mark.parametrize("held", [False, True], ids=["nothing is held", "email is held"])
    async def test_states_combine_with_filters_that_lead_elsewhere(self, store: Store, held: bool) -> None:
        """Another index leads, and the state is a condition on its rows: the answer must be the same."""
        jobs = {
            "queued": await store.submit(request_id="r1", content_hash=b"", labels={"team": "a"}),
            "due": await store.submit(request_id="r2", content_hash=b"", labels={"team": "a"}),
            "later": await store.submit(request_id="r3", content_hash=b"", labels={"team": "a"}),
            "isolated": await store.submit(request_id="r4", content_hash=b"", labels={"team": "a"}),
        }
        for name in ("due", "later", "isolated"):
            await store.claim(jobs[name])
            final = name == "isolated"
            retry = Retry(timedelta(seconds=30), TIMED_OUT)
            isolate = Isolate(QuarantineReason.POISON, TIMED_OUT)
            assert await store.settle(jobs[name], 1, isolate if final else retry)
        await store.set(jobs["due"], due_at=await store.database.now() - 1)
        if held:
            await store.hold()
        read = await store.reader.get(list(jobs.values()))
        for state in JobState:
            expected = {n for n, i in jobs.items() if read[i].state is state}
            assert named(jobs, await listed(store, f"state = {state} AND labels.team = a")) == expected
            failed = expected - {"queued"}
            assert named(jobs, await listed(store, f"state = {state} AND error.code = API_TIMEOUT")) == failed
            for number, name in enumerate(jobs, start=1):
                found = await listed(store, f"state = {state} AND request_id = r{number}")
                assert named(jobs, found) == expected & {name}
        held_ones = {n for n, i in jobs.items() if read[i].state is JobState.QUARANTINED} - {"isolated"}
        query = "quarantine.reason = BREAKER_OPEN AND labels.team = a"
        assert named(jobs, await listed(store, query)) == held_ones
        assert named(jobs, await listed(store, "quarantine.reason = POISON AND labels.team = a")) == {
            "isolated"
        }

    async def test_labels(self, store: Store) -> None:
        red = await store.submit(labels={"colour": "red", "size": "L"})
        large = await store.submit(labels={"colour": "blue", "size": "L"})
        await store.submit()
        assert await listed(store, "labels.size = L") == [large, red]
        assert await listed(store, "labels.size = L AND labels.colour = red") == [red]
        assert await listed(store, 'labels.colour = "green"') == []
        assert await listed(store, "labels.colour = red AND labels.colour = blue") == []
        assert await listed(store, "labels.size = L AND job_type = sms") == []

    async def test_error_codes_and_requests(self, store: Store) -> None:
        failed = [await store.running() for _ in range(4)]
        for n, job_id in enumerate(failed):
            code = "API_TIMEOUT" if n % 2 else "NETWORK_ERROR"
            await store.settle(job_id, 1, Retry(timedelta(minutes=1), JobError(code, "")))
        asked = await store.submit(request_id="r 1", content_hash=b"")
        assert await listed(store, "error.code = API_TIMEOUT", size=1) == failed[1::2][::-1]
        assert await listed(store, 'request_id = "r 1"') == [asked]
        assert await listed(store, "request_id = other") == []

    async def test_times_bound_a_page_to_the_millisecond(self, store: Store) -> None:
        now = await store.database.now()
        jobs = [new_job() for _ in range(4)]
        for offset, job in enumerate(jobs):
            await store.insert([job], now=now + offset)
        ids = [job.job_id for job in jobs]

        async def within(op: str, offset: int) -> list[UUID]:
            return await listed(store, f'create_time {op} "{at_millis(now + offset).isoformat()}"')

        assert await within(">", 1) == ids[2:][::-1]
        assert await within(">=", 1) == ids[1:][::-1]
        assert await within("<", 1) == ids[:1]
        assert await within("<=", 1) == ids[:2][::-1]
        assert await within("=", 1) == ids[1:2]
        assert await listed(store, 'create_time > "0001-01-01T00:00:00+14:00"') == ids[::-1]
        assert await listed(store, 'create_time < "9999-12-31T23:59:59Z"') == ids[::-1]

    async def test_what_excludes_itself_finds_nothing(self, store: Store) -> None:
        await store.submit()
        assert await store.reader.page(JobFilter(nothing=True), 10, None) == ([], None)

    async def test_pages_merge_types_and_states(self, store: Store) -> None:
        expected = []
        for n in range(12):
            job_type = f"type{n % 3}"
            expected.append(await (store.submit if n % 2 else store.isolated)(job_type))
        for held in ("type0", "type1"):
            await store.hold(held)
        read = await store.reader.get(expected)
        wanted = [i for i in expected if read[i].state is JobState.QUARANTINED]
        assert len(wanted) == 10
        assert await listed(store, "state = QUARANTINED", size=4) == wanted[::-1]

    async def test_a_list_that_began_before_a_hold_changes_goes_on_as_it_began(self, store: Store) -> None:
        ids = [await store.submit() for _ in range(6)]
        await store.hold()
        query = parse_filter("state = QUARANTINED")
        first, token = await store.reader.page(query, 2, None)
        assert token is not None
        await store.lift()
        await store.submit()  # newer than the list
        second, token = await store.reader.page(query, 2, token)
        assert token is not None
        await store.hold()
        await store.lift()
        third, token = await store.reader.page(query, 2, token)
        assert token is None
        found = [*first, *second, *third]
        assert [job.job_id for job in found] == ids[::-1]
        assert {job.state for job in found} == {JobState.QUARANTINED}
        assert (await store.reader.page(query, 10, None)) == ([], None)

    async def test_a_list_that_began_without_a_hold_goes_on_without_it(self, store: Store) -> None:
        ids = [await store.submit() for _ in range(4)]
        query = parse_filter("state = QUEUED")
        _, token = await store.reader.page(query, 2, None)
        await store.hold()
        second, _ = await store.reader.page(query, 2, token)
        assert [job.job_id for job in second] == ids[1::-1]

    async def test_one_list_over_many_types(self, store: Store) -> None:
        names = [f"t{n:04}" for n in range(450)]
        await store.types.ensure(names, 1000)
        ids = [await store.submit(name) for name in (names[0], names[-1], names[200])]
        assert await listed(store, "state = QUEUED") == ids[::-1]


class TestSqliteReader(OnSqlite, GetContract, PageContract):
    pass


class TestPostgresReader(OnPostgres, GetContract, PageContract):
    pass
