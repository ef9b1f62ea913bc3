"""The `Ledger` port: every transition once, in commit order, and the holds that follow."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from jobkit.adapters.sql.tables import breaker_transitions
from jobkit.domain.breaker import TRANSITIONS_KEPT, BreakerRecord, BreakerState, Cause, Transition
from jobkit.domain.moving import taken_along
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def record_of(name: str, *states: BreakerState, first: int = 1, at: int = 1_000) -> BreakerRecord:
    """A breaker that went through `states`, one generation each, starting CLOSED with `first`."""
    moves: list[Transition] = []
    before = CLOSED
    for generation, state in enumerate(states, start=first):
        actor = "Zoë" if state is CLOSED else ""
        moves.append(
            Transition(
                before, state, generation, at + generation, Cause.EVIDENCE, actor, "why", "API_TIMEOUT"
            )
        )
        before = state
    opened = [m.at for m in moves if m.to_state is OPEN]
    held = before is not CLOSED
    return BreakerRecord(
        name,
        before,
        moves[-1].generation,
        opened_at=opened[-1] if held else None,
        open_until=90_000 if before is OPEN else None,
        error_code="API_TIMEOUT" if held else "",
        transitions=tuple(moves[-TRANSITIONS_KEPT:]),
    )


async def ledger(store: Store) -> list[Any]:
    statement = sa.select(breaker_transitions).order_by(breaker_transitions.c.revision)

    async def work(connection: Any) -> list[Any]:
        return list((await connection.execute(statement)).all())

    return await store.database.read(work)


class LedgerContract(StoreContract):
    async def test_an_empty_ledger(self, store: Store) -> None:
        assert await store.ledger.latest() == {}

    async def test_a_record_is_written_once_however_often_it_comes(self, store: Store) -> None:
        record = record_of("email", OPEN, HALF_OPEN, CLOSED)
        revisions = [await store.ledger.record(record) for _ in range(3)]
        assert revisions == [3, 3, 3]
        assert [(row.revision, row.generation, row.to_state) for row in await ledger(store)] == [
            (1, 1, "OPEN"),
            (2, 2, "HALF_OPEN"),
            (3, 3, "CLOSED"),
        ]

    async def test_what_a_killed_worker_did_not_report_comes_with_the_next_record(self, store: Store) -> None:
        await store.ledger.record(record_of("email", OPEN))
        assert await store.ledger.record(record_of("email", OPEN, HALF_OPEN, OPEN, HALF_OPEN)) == 4
        assert [row.generation for row in await ledger(store)] == [1, 2, 3, 4]

    async def test_the_latest_records_are_told_back(self, store: Store) -> None:
        opened = record_of("email", OPEN)
        closed = record_of("sms", OPEN, CLOSED)
        for record in (opened, closed):
            await store.ledger.record(record)
        told = await store.ledger.latest()
        assert told == {"email": opened, "sms": closed}

    async def test_only_the_last_transitions_are_told_back(self, store: Store) -> None:
        states = [OPEN, CLOSED] * TRANSITIONS_KEPT
        for last in range(1, len(states) + 1):
            await store.ledger.record(record_of("email", *states[:last]))
        told = (await store.ledger.latest())["email"]
        assert len(told.transitions) == TRANSITIONS_KEPT
        assert told.generation == told.transitions[-1].generation == 2 * TRANSITIONS_KEPT

    async def test_a_hold_begins_and_ends_with_its_breaker(self, store: Store) -> None:
        await store.ledger.record(record_of("email", OPEN))
        info = (await store.types.all())["email"]
        assert (info.held, info.hold_number, info.mark) == (True, 1, 0)
        assert (info.held_since, info.held_until) == (1_001, 90_000)
        await store.ledger.record(record_of("email", OPEN, HALF_OPEN))
        info = (await store.types.all())["email"]
        assert (info.held, info.hold_number, info.held_since) == (True, 1, 1_001)
        # A reopening is the same hold.
        await store.ledger.record(record_of("email", OPEN, HALF_OPEN, OPEN))
        info = (await store.types.all())["email"]
        assert (info.held, info.hold_number, info.held_since) == (True, 1, 1_001)
        await store.ledger.record(record_of("email", OPEN, HALF_OPEN, OPEN, CLOSED))
        info = (await store.types.all())["email"]
        assert (info.held, info.hold_number, info.mark) == (False, 1, 1)
        assert (info.held_since, info.held_until) == (None, None)
        await store.ledger.record(record_of("email", OPEN, HALF_OPEN, OPEN, CLOSED, OPEN))
        info = (await store.types.all())["email"]
        assert (info.held, info.hold_number, info.mark) == (True, 2, 1)

    async def test_an_older_generation_never_changes_a_hold(self, store: Store) -> None:
        await store.ledger.record(record_of("email", OPEN, CLOSED))
        before = await store.types.all()
        await store.ledger.record(record_of("email", OPEN))
        assert await store.types.all() == before
        await store.ledger.record(record_of("sms", OPEN, CLOSED, OPEN))
        before = await store.types.all()
        await store.ledger.record(record_of("sms", OPEN, CLOSED))
        assert await store.types.all() == before

    async def test_what_a_worker_came_to_on_its_own_holds_once_it_is_the_fleets(self, store: Store) -> None:
        opened = record_of("email", OPEN)
        alone = replace(opened, transitions=(replace(opened.transitions[0], scope="w1"),))
        await store.ledger.record(alone)
        assert "email" not in await store.types.all()
        told = taken_along(alone, BreakerRecord("email"))
        for _ in range(2):
            assert await store.ledger.record(told) == 2
        rows = await ledger(store)
        assert [(row.generation, row.scope, row.from_state, row.to_state) for row in rows] == [
            (1, "w1", "CLOSED", "OPEN"),
            (1, "", "CLOSED", "OPEN"),
        ]
        assert (await store.types.all())["email"].held
        assert await store.ledger.heads(["email"]) == {"email": 1}
        latest = (await store.ledger.latest())["email"]
        assert (latest.state, latest.open_until) == (OPEN, told.open_until)
        (incident,) = await store.history.incidents("email", open_only=True, size=5, before=None)
        assert incident.opened_at == opened.opened_at

    async def test_concurrent_writers_agree_and_give_out_revisions_in_order(self, store: Store) -> None:
        names = [f"type{n}" for n in range(4)]
        states = [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED, OPEN]
        for last in range(1, len(states) + 1):
            records = [record_of(name, *states[:last]) for name in names for _ in range(3)]
            revisions = await asyncio.gather(*(store.ledger.record(record) for record in records))
            assert max(revisions) == len(await ledger(store)) == last * len(names)
        rows = await ledger(store)
        assert [row.revision for row in rows] == list(range(1, len(rows) + 1))
        for name in names:
            assert [row.generation for row in rows if row.breaker == name] == [1, 2, 3, 4, 5, 6]
        infos = await store.types.all()
        assert {(infos[name].held, infos[name].hold_number) for name in names} == {(True, 2)}

    async def test_a_wiped_breaker_store_goes_on_from_the_ledger(self, store: Store) -> None:
        await store.ledger.record(record_of("email", OPEN, CLOSED, OPEN))
        told = (await store.ledger.latest())["email"]
        assert told.state is OPEN
        assert (told.opened_at, told.open_until, told.error_code) == (1_003, 90_000, "API_TIMEOUT")
        assert await store.ledger.record(told) == 3


class TestSqliteLedger(OnSqlite, LedgerContract):
    pass


class TestPostgresLedger(OnPostgres, LedgerContract):
    pass
