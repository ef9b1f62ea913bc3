"""The ports `WorkerCommands` and `Revisions`, and who lives by `Presence`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.commands import SqlCommands
from jobkit.adapters.sql.retention import SqlRetention
from jobkit.adapters.sql.revisions import SqlRevisions
from jobkit.adapters.sql.tables import worker_commands, workers
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.tripping import open_by_hand
from jobkit.ports import Action, LiveWorker, WorkerCommand
from jobkit.ports.revisions import JOB_TYPES, LEDGER
from tests.contract.store_contract import OnPostgres, OnSqlite, Store, StoreContract, new_id

MINUTE = timedelta(minutes=1)


def drain_of(worker_id: str, instance_id: str = "") -> WorkerCommand:
    return WorkerCommand(new_id(), worker_id, instance_id, Action.DRAIN, "Zoë", "why")


class CommandsContract(StoreContract):
    @pytest.fixture
    def commands(self, store: Store) -> SqlCommands:
        return SqlCommands(store.database)

    async def test_what_was_asked_waits_for_an_answer(self, store: Store, commands: SqlCommands) -> None:
        before = await store.database.now()
        first, second, other = drain_of("one", "run"), drain_of("two"), drain_of("three")
        for command in (first, second, other):
            await commands.ask(command)
        waiting = await commands.unanswered(["two", "one", "one", "four"], 10)
        assert [replace(command, asked_at=0) for command in waiting] == [first, second]
        now = await store.database.now()
        assert all(before <= command.asked_at <= now for command in waiting)
        assert [c.command_id for c in await commands.unanswered(["one", "two"], 1)] == [first.command_id]
        assert await commands.unanswered([], 10) == []

    async def test_the_first_answer_stands(self, commands: SqlCommands) -> None:
        command = drain_of("one")
        await commands.ask(command)
        assert await commands.answer(command.command_id, 13, "no lanes")
        assert not await commands.answer(command.command_id, 0, "")
        assert not await commands.answer(new_id(), 0, "")
        assert await commands.unanswered(["one"], 10) == []
        found = (await commands.latest(["one"]))["one"]
        assert (found.code, found.error) == (13, "no lanes")
        assert found.answered_at is not None
        assert found.answered_at >= found.asked_at

    async def test_the_latest_of_each(self, commands: SqlCommands) -> None:
        older, newer, other = drain_of("one"), drain_of("one"), drain_of("two")
        for command in (older, newer, other):
            await commands.ask(command)
        found = await commands.latest(["one", "two", "three"])
        assert {name: command.command_id for name, command in found.items()} == {
            "one": newer.command_id,
            "two": other.command_id,
        }
        assert await commands.latest([]) == {}

    async def test_old_ones_leave(self, store: Store, commands: SqlCommands) -> None:
        old, fresh = [drain_of("one"), drain_of("one")], drain_of("two")
        for command in (*old, fresh):
            await commands.ask(command)
        aged = (
            sa.update(worker_commands)
            .where(worker_commands.c.worker_id == "one")
            .values(asked_at=worker_commands.c.asked_at - 120_000)
        )
        await store.database.write(lambda connection: connection.execute(aged))
        assert await commands.purge(MINUTE, 1) == 1
        assert await commands.purge(MINUTE, 10) == 1
        assert await commands.purge(MINUTE, 10) == 0
        assert set(await commands.latest(["one", "two"])) == {"two"}


class RevisionsContract(StoreContract):
    async def test_they_move_with_what_they_count_and_with_nothing_else(self, store: Store) -> None:
        revisions = SqlRevisions(store.database)
        assert await revisions.read() == {}
        await store.types.ensure(["email"], 10)
        first = (await revisions.read())[JOB_TYPES]
        await store.types.ensure(["email"], 10)
        assert (await revisions.read())[JOB_TYPES] == first
        assert not await SqlRetention(store.database).drop_type("unheard-of")
        assert (await revisions.read())[JOB_TYPES] == first
        assert await SqlRetention(store.database).drop_type("email")
        assert (await revisions.read())[JOB_TYPES] > first
        record = open_by_hand(BreakerRecord("sms"), 1_000, None, "ops", "")
        assert await store.ledger.record(record) == (await revisions.read())[LEDGER]


class LiveContract(StoreContract):
    async def test_who_beat_lately_lives(self, store: Store) -> None:
        before = await store.database.now()
        for name, serves in (("b", ["sms", "email"]), ("Z", ["*"]), ("a", []), ("old", ["email"])):
            await store.presence.beat(name, serves, {})
        aged = (
            sa.update(workers).where(workers.c.worker_id == "old").values(beat_at=workers.c.beat_at - 120_000)
        )
        await store.database.write(lambda connection: connection.execute(aged))
        live = await store.presence.live(MINUTE)
        assert [replace(worker, beat_at=0) for worker in live] == [
            LiveWorker("Z", ("*",), 0),
            LiveWorker("a", (), 0),
            LiveWorker("b", ("email", "sms"), 0),
        ]
        assert all(before <= worker.beat_at for worker in live)
        await store.presence.leave("a")
        assert [worker.worker_id for worker in await store.presence.live(MINUTE)] == ["Z", "b"]


class TestCommandsOnSqlite(OnSqlite, CommandsContract):
    pass


class TestCommandsOnPostgres(OnPostgres, CommandsContract):
    pass


class TestRevisionsOnSqlite(OnSqlite, RevisionsContract):
    pass


class TestRevisionsOnPostgres(OnPostgres, RevisionsContract):
    pass


class TestLiveOnSqlite(OnSqlite, LiveContract):
    pass


class TestLiveOnPostgres(OnPostgres, LiveContract):
    pass
