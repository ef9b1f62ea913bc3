"""The `History` and `Sums` ports: reading the ledger, going on from a revision, incidents and what they amount to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.retention import NEWEST_KEPT, SqlRetention
from jobkit.adapters.sql.tables import breaker_transitions, incidents, jobs
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Proof, Transition
from jobkit.domain.errors import OutOfRange
from jobkit.domain.ledger import Entry, Incident, Stretch, Tally
from jobkit.domain.tripping import close_by_hand, decide_probe_time, open_by_hand, reset
from jobkit.ports import Ages
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_job

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
AGES = Ages(finished_ms=1000, quarantined_ms=1000)
PROOF = Proof(
    failures={"API_TIMEOUT": 9, "NUL\x00": 1},
    distinct_jobs={"API_TIMEOUT": 5},
    sample=12,
    workers=("w1", "w2"),
    jobs=(UUID(int=1), UUID(int=2)),
    traces=("0af7651916cd43dd8448eb211c80319c",),
    first_failure_at=400,
)


def opened(name: str, generation: int = 1, **changes: Any) -> BreakerRecord:
    """As evidence opens a breaker."""
    move = Transition(
        CLOSED,
        OPEN,
        generation,
        1_000,
        Cause.EVIDENCE,
        "",
        "why",
        "API_TIMEOUT",
        proof=changes.pop("proof", PROOF),
    )
    record = BreakerRecord(name, OPEN, generation, 1_000, 61_000, "API_TIMEOUT", transitions=(move,))
    return replace(record, **changes)


def own(worker: str, name: str, *states: BreakerState, base: BreakerRecord | None = None) -> BreakerRecord:
    """A breaker that one worker goes by alone, after what the fleet's was."""
    moves = list(base.transitions if base else ())
    before = CLOSED
    for generation, state in enumerate(states, start=1):
        moves.append(Transition(before, state, generation, 2_000, Cause.EVIDENCE, scope=worker))
        before = state
    return BreakerRecord(name, before, len(states), transitions=tuple(moves))


async def revisions(store: Store) -> list[tuple[int, str, str]]:
    page = await store.history.page(None, 1000, None)
    return [(e.revision, e.breaker, e.move.scope) for e in reversed(page)]


async def only_incident(store: Store) -> Incident:
    (incident,) = await store.history.incidents(None, open_only=False, size=10, before=None)
    return incident


class HistoryContract(StoreContract):
    # -- entries

    async def test_an_empty_ledger_has_nothing_to_tell(self, store: Store) -> None:
        assert await store.history.head() == 0
        assert await store.history.snapshot(["email"]) == (0, {})
        assert await store.history.after(0, None, 10) == Stretch((), 0)
        assert await store.history.page(None, 10, None) == []
        assert await store.history.incidents(None, open_only=False, size=10, before=None) == []
        assert await store.history.incident(1, 10) is None
        assert await store.sums.tally(10) == Tally()
        await store.sums.weigh(10)

    async def test_an_entry_keeps_everything(self, store: Store) -> None:
        record = opened("email")
        await store.ledger.record(record)
        assert await store.history.page("email", 10, None) == [Entry(1, "email", record.transitions[0])]

    async def test_texts_that_no_database_can_hold_are_kept_without_it(self, store: Store) -> None:
        """One NUL must not keep a transition out of the ledger for ever."""
        await store.ledger.record(open_by_hand(BreakerRecord("email"), 1_000, None, "a\x00b", "\ud800"))
        (entry,) = await store.history.page(None, 10, None)
        assert "\x00" not in entry.move.actor
        assert entry.move.actor.startswith("a")

    async def test_pages_go_back_through_everything_while_it_grows(self, store: Store) -> None:
        for number in range(10):
            await store.move(("email", "sms")[number % 2], (OPEN, CLOSED)[number // 2 % 2])
        seen, before = [], None
        while page := await store.history.page(None, 3, before):
            seen += [entry.revision for entry in page]
            before = page[-1].revision
            await store.move("fax", OPEN, generation=100 + len(seen))
        assert seen == list(range(10, 0, -1))
        assert [e.revision for e in await store.history.page("sms", 2, 9)] == [8, 6]

    async def test_what_follows_a_revision(self, store: Store) -> None:
        for number in range(6):
            await store.move(("email", "sms")[number % 2], (OPEN, CLOSED)[number // 2 % 2])
        first = await store.history.after(1, None, 3)
        assert ([e.revision for e in first.entries], first.revision) == ([2, 3, 4], 4)
        rest = await store.history.after(first.revision, None, 3)
        assert ([e.revision for e in rest.entries], rest.revision) == ([5, 6], 6)
        mine = await store.history.after(0, "sms", 2)
        assert ([e.revision for e in mine.entries], mine.revision) == ([2, 4], 4)
        # Also what others did counts as seen.
        last = await store.history.after(0, "email", 100)
        assert ([e.revision for e in last.entries], last.revision) == ([1, 3, 5], 6)
        assert await store.history.after(6, None, 3) == Stretch((), 6)

    async def test_a_revision_that_has_not_been_is_refused(self, store: Store) -> None:
        await store.hold()
        with pytest.raises(OutOfRange) as ahead:
            await store.history.after(2, None, 3)
        assert (ahead.value.reason, ahead.value.metadata) == ("REVISION_AHEAD", {"newest": "1"})

    async def test_a_revision_before_what_has_left_is_refused(self, store: Store) -> None:
        for number in range(NEWEST_KEPT + 4):
            await store.move("email", (OPEN, CLOSED)[number % 2])
        await store.execute(sa.update(breaker_transitions).values(at=1))
        retention, after, removed = SqlRetention(store.database), 0, 0
        while after is not None:
            step = await retention.purge_ledger(after, AGES, 3)
            after, removed = step.after, removed + step.removed
        assert removed == 4
        for revision in (0, 3):
            with pytest.raises(OutOfRange) as old:
                await store.history.after(revision, None, 100)
            assert (old.value.reason, old.value.metadata) == ("REVISION_TOO_OLD", {"oldest": "4"})
        assert len((await store.history.after(4, None, 100)).entries) == NEWEST_KEPT

    async def test_a_watcher_sees_no_hole_while_many_write(self, store: Store) -> None:
        """Revisions are given out in commit order: whoever sees one has seen all before it."""
        writers, each, seen = 4, 15, list[int]()

        async def write(name: str) -> None:
            for _ in range(each):
                await store.move(name, OPEN)

        async def watch() -> None:
            cursor = 0
            while len(seen) < writers * each:
                stretch = await store.history.after(cursor, None, 7)
                seen.extend(entry.revision for entry in stretch.entries)
                assert stretch.revision == (seen[-1] if seen else 0)
                cursor = stretch.revision

        async with asyncio.timeout(60):
            await asyncio.gather(watch(), *(write(f"type{n}") for n in range(writers)))
        assert seen == list(range(1, writers * each + 1))

    async def test_a_snapshot_is_of_its_revision(self, store: Store) -> None:
        await store.ledger.record(opened("email"))
        await store.hold("sms")
        revision, records = await store.history.snapshot(["email", "fax"])
        assert (revision, records) == (2, {"email": opened("email")})

    # -- a worker on its own

    async def test_a_workers_own_moves_are_kept_apart(self, store: Store) -> None:
        """They hold nothing, make no incident, and the fleet's breaker is not rebuilt from them."""
        fleet = opened("email")
        await store.ledger.record(own("w1", "email", OPEN, HALF_OPEN, base=fleet))
        await store.ledger.record(own("w2", "email", OPEN))
        assert await revisions(store) == [(1, "email", "w1"), (2, "email", "w1"), (3, "email", "w2")]
        assert await store.ledger.latest() == await store.ledger.heads(["email"]) == {}
        assert await store.types.all() == {}
        assert await store.history.incidents(None, open_only=False, size=10, before=None) == []
        # The same generation of the fleet is another entry.
        await store.ledger.record(fleet)
        assert await store.ledger.latest() == {"email": fleet}
        assert (await store.types.all())["email"].held
        incident = await only_incident(store)
        found = await store.history.incident(incident.incident_id, 10)
        assert found is not None
        assert [entry.move.scope for entry in found[1]] == [""]
        # And repeating one's own changes nothing.
        assert await store.ledger.record(own("w1", "email", OPEN, HALF_OPEN, base=fleet)) == 4

    async def test_pages_of_a_list_are_not_misled_by_a_workers_own_moves(self, store: Store) -> None:
        held = await store.submit()
        revision = await store.hold()
        await store.ledger.record(own("w1", "email", OPEN, HALF_OPEN, OPEN, CLOSED))
        assert (await store.get(held)).quarantine is not None
        await store.lift()
        assert await store.history.head() == revision + 5

    # -- rebuilding

    async def test_heads_are_the_newest_generations(self, store: Store) -> None:
        await store.hold("email")
        await store.lift("email")
        await store.move("sms", OPEN, generation=77)
        assert await store.ledger.heads(["email", "sms", "fax"]) == {"email": 2, "sms": 77}
        assert await store.ledger.heads([]) == {}

    async def test_only_those_asked_for_are_rebuilt(self, store: Store) -> None:
        await store.hold("email")
        await store.hold("sms")
        assert (await store.ledger.latest(["sms", "fax"])).keys() == {"sms"}
        assert (await store.ledger.latest()).keys() == {"email", "sms"}
        assert await store.ledger.latest([]) == {}

    @pytest.mark.parametrize("until", [None, 90_000])
    async def test_what_was_done_by_hand_is_remembered(self, store: Store, until: int | None) -> None:
        flowing = close_by_hand(BreakerRecord("email"), 1_000, until, "ops", "trust me")
        for record in (flowing, open_by_hand(flowing, 2_000, until, "ops", "no")):
            await store.ledger.record(record)
            assert (await store.ledger.latest(["email"]))["email"] == record
        released = reset(record, 3_000, "ops", "")
        await store.ledger.record(released)
        assert (await store.ledger.latest())["email"] == released

    async def test_escalation_and_the_code_are_remembered(self, store: Store) -> None:
        record = opened("email", reopened=3)
        await store.ledger.record(record)
        assert (await store.ledger.latest())["email"].reopened == 3
        probing = decide_probe_time(record, 70_000)
        assert probing is not None
        await store.ledger.record(probing)
        assert (await store.ledger.latest())["email"] == probing

    async def test_an_entry_that_comes_late_changes_neither_record_nor_incident(self, store: Store) -> None:
        newest = opened("email", 5)
        await store.ledger.record(newest)
        await store.ledger.record(replace(reset(opened("email", 3), 0, "", ""), generation=4))
        assert (await store.ledger.heads(["email"])) == {"email": 5}
        rebuilt = (await store.ledger.latest())["email"]
        assert (rebuilt.state, rebuilt.open_until) == (OPEN, 61_000)
        assert (await only_incident(store)).is_open

    # -- incidents

    async def test_an_incident_lasts_from_the_opening_to_the_closing(self, store: Store) -> None:
        record = opened("email")
        await store.ledger.record(record)
        incident = await only_incident(store)
        assert incident == Incident(
            1, "email", 1_000, Cause.EVIDENCE, "", "why", "API_TIMEOUT", first_failure_at=400
        )
        assert incident.is_open
        assert incident.time_to_detect == timedelta(milliseconds=600)
        assert incident.time_to_recover is incident.good_probe_at is None
        for to, at, cause in (
            (HALF_OPEN, 61_000, Cause.TIMER),
            (OPEN, 61_500, Cause.EVIDENCE),
            (HALF_OPEN, 200_000, Cause.TIMER),
            (CLOSED, 200_100, Cause.EVIDENCE),
            (OPEN, 300_000, Cause.EVIDENCE),
        ):
            move = Transition(record.state, to, record.generation + 1, at, cause)
            record = replace(
                record, state=to, generation=move.generation, transitions=(*record.transitions, move)
            )
            if to is not OPEN:
                continue  # one record brings several moves, as after a worker was killed
            await store.ledger.record(record)
        second, first = await store.history.incidents("email", open_only=False, size=10, before=None)
        assert (first.closed_at, first.close_revision, first.probes, first.reopened) == (200_100, 5, 2, 1)
        assert first.time_to_recover == timedelta(milliseconds=199_100)
        assert first.good_probe_at == 200_100
        assert (second.incident_id, second.is_open, second.first_failure_at) == (6, True, None)
        found = await store.history.incident(1, 100)
        assert found is not None
        assert found[0] == first
        assert [entry.revision for entry in found[1]] == [1, 2, 3, 4, 5]
        assert [e.revision for e in (await store.history.incident(1, 2) or (None, []))[1]] == [1, 2]

    async def test_a_repeated_record_opens_no_second_incident(self, store: Store) -> None:
        record = opened("email")
        closed = reset(record, 5_000, "ops", "fixed")
        await asyncio.gather(*(store.ledger.record(r) for r in (record, closed) for _ in range(4)))
        incident = await only_incident(store)
        assert (incident.closed_at, incident.close_cause) == (5_000, Cause.OPERATOR)
        assert incident.good_probe_at is None
        await store.ledger.record(record)
        assert await only_incident(store) == incident

    async def test_incidents_are_listed_in_pages_by_breaker_and_by_whether_they_last(
        self, store: Store
    ) -> None:
        for name in ("email", "sms", "email", "fax"):
            await store.hold(name)
            if name != "fax":
                await store.lift(name)
        listed = await store.history.incidents(None, open_only=False, size=2, before=None)
        assert [i.incident_id for i in listed] == [7, 5]
        rest = await store.history.incidents(None, open_only=False, size=9, before=5)
        assert [(i.incident_id, i.breaker) for i in rest] == [(3, "sms"), (1, "email")]
        mine = await store.history.incidents("email", open_only=False, size=9, before=None)
        assert [i.incident_id for i in mine] == [5, 1]
        lasting = await store.history.incidents(None, open_only=True, size=9, before=None)
        assert [i.breaker for i in lasting] == ["fax"]

    async def test_what_waits_is_weighed_when_the_incident_closes(self, store: Store) -> None:
        await store.insert([new_job() for _ in range(3)])
        await store.submit("sms")
        await store.hold()
        await store.insert([new_job() for _ in range(2)])
        await store.lift()
        incident = await only_incident(store)
        assert (incident.jobs_held, incident.attempts_saved, incident.calls_avoided) == (5, 5, 5)

    async def test_the_sum_counts_the_runs_that_fitted_into_the_wait(self, store: Store) -> None:
        """The formula of domain.ledger: runs after 0, 5, 15 and 35 s, as many as the job had left."""
        now = await store.database.now()
        held = {name: await store.submit() for name in ("all", "late", "two left", "short", "generous")}
        far = await store.retrying(delay=timedelta(hours=1))
        await store.hold()
        await store.execute(sa.update(incidents).values(noted_at=now - 40_000))
        await store.execute(sa.update(jobs).where(jobs.c.job_id != far).values(due_at=now - 100_000))
        await store.set(held["late"], due_at=now - 20_000)  # 0, 5, 15
        await store.set(held["two left"], attempts=5, attempts_base=3)
        await store.set(held["short"], max_attempts=1)
        await store.set(held["generous"], max_attempts=50)
        await store.sums.weigh(100)
        incident = await only_incident(store)
        assert (incident.jobs_held, incident.attempts_saved) == (5, 4 + 3 + 2 + 1 + 4)
        # The highest stays: who has left was held all the same.
        await store.execute(sa.delete(jobs))
        await store.sums.weigh(100)
        await store.lift()
        assert await only_incident(store) == replace(
            incident,
            closed_at=(await only_incident(store)).closed_at,
            close_revision=2,
            close_cause=Cause.EVIDENCE,
        )

    async def test_a_look_is_bounded(self, store: Store) -> None:
        await store.insert([new_job() for _ in range(5)])
        await store.hold()
        await store.sums.weigh(3)
        assert (await only_incident(store)).jobs_held == 3
        await store.sums.weigh(30)
        assert (await only_incident(store)).jobs_held == 5

    async def test_probes_are_calls_that_were_made(self) -> None:
        incident = Incident(1, "email", 0, Cause.EVIDENCE, probes=3, attempts_saved=10)
        assert incident.calls_avoided == 7
        assert replace(incident, attempts_saved=1).calls_avoided == 0

    # -- counting

    async def test_each_transition_is_counted_by_one(self, store: Store) -> None:
        for name in ("email", "sms"):
            for state in (OPEN, HALF_OPEN, CLOSED):
                await store.move(name, state)
        await store.ledger.record(own("w1", "email", OPEN))
        tallies = await asyncio.gather(*(store.sums.tally(4) for _ in range(5)))
        counted = [key for tally in tallies for key, count in tally.transitions.items() for _ in range(count)]
        assert sorted(counted) == sorted(
            (n, s.value) for n in ("email", "sms") for s in (OPEN, HALF_OPEN, CLOSED)
        )
        assert await store.sums.tally(10) == Tally()

    async def test_attempts_saved_are_counted_by_one_as_they_grow(self, store: Store) -> None:
        await store.submit()
        await store.hold()
        await store.sums.weigh(10)
        tallies = await asyncio.gather(*(store.sums.tally(10) for _ in range(3)))
        assert [t.saved for t in tallies if t.saved] == [{"email": 1}]
        await store.insert([new_job() for _ in range(2)])
        await store.lift()
        assert (await store.sums.tally(10)).saved == {"email": 2}
        assert (await store.sums.tally(10)).saved == {}


class TestSqliteHistory(OnSqlite, HistoryContract):
    pass


class TestPostgresHistory(OnPostgres, HistoryContract):
    pass
