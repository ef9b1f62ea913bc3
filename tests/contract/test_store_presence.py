"""The ports `Sessions`, `Presence` and `TypeCatalog`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from jobkit.adapters.sql.tables import claim_fronts, publishers, workers
from jobkit.ports import TypeInfo
from tests.contract.store_contract import (
    OTHER_SESSION,
    SESSION,
    OnPostgres,
    OnSqlite,
    Store,
    StoreContract,
    new_id,
)

MINUTE = timedelta(minutes=1)


class SessionsContract(StoreContract):
    async def _publisher(self, store: Store, session: UUID) -> Any:
        statement = sa.select(publishers).where(publishers.c.session_id == session)

        async def work(connection: Any) -> Any:
            return (await connection.execute(statement)).one_or_none()

        return await store.database.read(work)

    async def test_a_beat_tells_database_time_and_keeps_one_row(self, store: Store) -> None:
        before = await store.database.now()
        low, high = sorted([new_id(), new_id()])
        for confirmed_to in (low, None, high):
            at = await store.sessions.beat(SESSION, "jobapi", confirmed_to)
            row = await self._publisher(store, SESSION)
            assert (row.component, row.confirmed_to, row.beat_at) == ("jobapi", confirmed_to, at)
            assert before <= at <= await store.database.now()

    async def test_leaving_is_for_good_and_may_be_repeated(self, store: Store) -> None:
        await store.sessions.beat(SESSION, "jobapi", None)
        for _ in range(2):
            await store.sessions.leave(SESSION)
            assert await self._publisher(store, SESSION) is None

    async def test_orphaned_tokens_become_nobodys(self, store: Store) -> None:
        queued, retrying = await store.submit(), await store.retrying()
        others = await store.submit(session=OTHER_SESSION)
        running, done = await store.running(), await store.succeeded()
        ids = [queued, retrying, others, running, done, new_id()]
        for _ in range(2):
            await store.sessions.orphan(SESSION, ids)
        rows = [await store.row(i) for i in ids[:5]]
        assert [(row.state, row.session_id) for row in rows] == [
            ("PENDING", None),
            ("RETRYING", None),
            ("QUEUED", OTHER_SESSION),
            ("RUNNING", SESSION),
            ("SUCCEEDED", SESSION),
        ]

    async def test_who_takes_over_old_rows_answers_for_them(self, store: Store) -> None:
        old = await store.submit(session=None)
        newer = new_id()
        await store.sessions.beat(SESSION, "controlplane", newer)
        await store.sessions.beat(OTHER_SESSION, "controlplane", None)
        assert [t.job_id for t in await store.recovery.take_overdue(SESSION, 10)] == [old]
        assert (await self._publisher(store, SESSION)).confirmed_to == old
        for session in (SESSION, OTHER_SESSION):
            isolated = await store.isolated()
            await store.steering.retry(isolated, None, session)
        assert (await self._publisher(store, SESSION)).confirmed_to == old
        assert (await self._publisher(store, OTHER_SESSION)).confirmed_to == isolated


class PresenceContract(StoreContract):
    async def test_served_types_are_those_of_live_workers(self, store: Store) -> None:
        assert await store.presence.served_types(MINUTE) == set()
        await store.presence.beat("w1", ["email", "sms"], {})
        await store.presence.beat("w2", ["*"], {})
        assert await store.presence.served_types(MINUTE) == {"email", "sms", "*"}
        await store.presence.beat("w1", ["email"], {})
        await store.presence.leave("w2")
        assert await store.presence.served_types(MINUTE) == {"email"}
        await store.execute(sa.update(workers).values(beat_at=workers.c.beat_at - 61_000))
        assert await store.presence.served_types(MINUTE) == set()

    async def test_live_workers_of_a_type_are_counted(self, store: Store) -> None:
        assert await store.presence.serving(MINUTE) == {}
        await store.presence.beat("w1", ["email", "sms"], {})
        await store.presence.beat("w2", ["email"], {})
        await store.presence.beat("w3", ["email", "*"], {})
        assert await store.presence.serving(MINUTE) == {"email": 2, "sms": 1, "*": 1}
        await store.execute(sa.update(workers).values(beat_at=workers.c.beat_at - 61_000))
        assert await store.presence.serving(MINUTE) == {}

    async def test_fronts_are_the_smallest_of_live_workers(self, store: Store) -> None:
        await store.presence.beat("w1", [], {"email": 100, "sms": 7})
        await store.presence.beat("w2", [], {"email": 50})
        await store.presence.beat("w2", [], {})  # no claims since: the last front stands
        assert await store.recovery.fronts(MINUTE) == {"email": 50, "sms": 7}
        await store.presence.beat("w2", [], {"email": 120})
        assert await store.recovery.fronts(MINUTE) == {"email": 100, "sms": 7}
        await store.presence.leave("w1")
        assert await store.recovery.fronts(MINUTE) == {"email": 120}
        await store.execute(sa.update(claim_fronts).values(seen_at=claim_fronts.c.seen_at - 61_000))
        assert await store.recovery.fronts(MINUTE) == {}


class TypesContract(StoreContract):
    async def test_types_appear_on_first_sight(self, store: Store) -> None:
        assert await store.types.all() == {}
        assert await store.types.ensure(["email", "sms", "email"], 10) == []
        assert await store.types.ensure(["email"], 10) == []
        assert await store.types.all() == {name: TypeInfo(name) for name in ("email", "sms")}

    async def test_what_does_not_fit_is_named_and_what_is_known_always_fits(self, store: Store) -> None:
        assert await store.types.ensure(["b", "a", "c"], 2) == ["c"]
        assert await store.types.ensure(["a", "b", "d"], 2) == ["d"]
        assert await store.types.ensure(["a"], 0) == []
        assert await store.types.ensure([], 0) == []
        assert set(await store.types.all()) == {"a", "b"}

    async def test_concurrent_callers_share_the_last_places(self, store: Store) -> None:
        refused = await asyncio.gather(*(store.types.ensure([f"t{n}", "same"], 5) for n in range(8)))
        assert len(await store.types.all()) == 5
        assert sum(len(names) for names in refused) == 4

    async def test_a_hold_makes_its_type_known(self, store: Store) -> None:
        await store.hold("email")
        assert (await store.types.all())["email"].held
        assert await store.types.ensure(["email"], 0) == []


class TestSqlitePresence(OnSqlite, SessionsContract, PresenceContract, TypesContract):
    pass


class TestPostgresPresence(OnPostgres, SessionsContract, PresenceContract, TypesContract):
    pass
