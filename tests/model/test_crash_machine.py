"""Whoever dies, and wherever: every accepted job comes to its end, once. A fleet of real parts goes through whatever
hypothesis thinks of; then it is left in peace, and every write to every row is looked at."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobkit.domain.job import TRANSITIONS, JobState
from tests.model.fleet import FINAL, TYPES, WORKERS, Fleet
from tests.model.processes import Kind, Process, Trouble
from tests.model.timeless import EPOCH_MS, TimelessLoop

R = TypeVar("R")
PEACE_SECONDS = 400.0  # four times the worst that deadly jobs cost
POINTS = {
    "jobapi": ["insert", "publish", "orphan", "beat"],
    "controlplane": ["take_overdue", "take_orphans", "take_lost", "expired", "rescue", "publish", "beat"],
    "worker": [
        "claim", "take_over", "mark_alone", "execute", "renew", "settle", "publish", "orphan", "ack", "give_back",
        "consume", "beat",
    ],
}  # fmt: skip
LOSSES_OF_POISON = 3
EVERYWHERE = sorted((component, point) for component, points in POINTS.items() for point in points)
PROCESSES = ("jobapi", "controlplane", *WORKERS)
# By kind of job: how it ends, after how many attempts.
ENDS = {
    "good": ("SUCCEEDED", 1),
    "long": ("SUCCEEDED", 1),
    "flaky": ("SUCCEEDED", 2),
    "bad": ("QUARANTINED", 1),
    "deadly": ("QUARANTINED", 0),
}


class CrashMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = TimelessLoop()
        self.folder = tempfile.TemporaryDirectory(prefix="selfheal-model-")
        self.fleet = Fleet(self.loop, Path(self.folder.name))
        self.cancelled: set[UUID] = set()
        self.run(self.fleet.open())

    def run(self, action: Coroutine[Any, Any, R]) -> R:
        return self.loop.run_until_complete(action)

    def teardown(self) -> None:
        try:
            self.run(self.everything_ends())
        finally:
            self.run(self.fleet.close())
            self.loop.close()
            self.folder.cleanup()

    # -- what goes on

    @initialize(kinds=st.lists(st.sampled_from(sorted(ENDS)), min_size=4, max_size=8))
    def some_work(self, kinds: list[str]) -> None:
        for number, kind in enumerate(kinds):
            self.fleet.submit(TYPES[number % len(TYPES)], kind)

    @rule(job_type=st.sampled_from(TYPES), kind=st.sampled_from(sorted(ENDS)))
    def submit(self, job_type: str, kind: str) -> None:
        self.fleet.submit(job_type, kind)

    @rule(seconds=st.sampled_from([0.003, 0.02, 0.3, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        if self.fleet.accepted:
            job_id = data.draw(st.sampled_from(sorted(self.fleet.accepted)))
            if self.run(self.fleet.cancel(job_id)):
                self.cancelled.add(job_id)

    # -- what goes wrong

    @rule(where=st.sampled_from(EVERYWHERE), kind=st.sampled_from(Kind), nth=st.integers(1, 3))
    def trouble(self, where: tuple[str, str], kind: Kind, nth: int) -> None:
        """At a worker's point, for every worker."""
        component, point = where
        for name in WORKERS if component == "worker" else [component]:
            self.fleet.processes[name].troubles.append(Trouble(kind, point, nth))

    @rule(name=st.sampled_from(PROCESSES))
    def kill(self, name: str) -> None:
        self.run(self.fleet.kill(name))

    @rule(name=st.sampled_from(PROCESSES), seconds=st.sampled_from([1.0, 30.0]))
    def freeze(self, name: str, seconds: float) -> None:
        self.run(self.fleet.freeze(name, seconds))

    @rule(name=st.sampled_from(WORKERS))
    def drain(self, name: str) -> None:
        self.run(self.fleet.drain(name))

    @rule(name=st.sampled_from(WORKERS))
    def channels_close(self, name: str) -> None:
        self.run(self.fleet.processes[name].lose_channels())

    @rule()
    def queues_are_purged(self) -> None:
        self.fleet.purge()

    # -- what must hold

    @invariant()
    def no_job_runs_twice_at_a_time(self) -> None:
        assert not self.fleet.problems

    async def everything_ends(self) -> None:
        for process in self.fleet.processes.values():
            process.troubles.clear()
        ended = await self.fleet.until(self.fleet.at_rest, PEACE_SECONDS)
        rows = {row.job_id: row for row in await self.fleet.rows()}
        stuck = [row for row in rows.values() if row.state not in FINAL]
        assert ended, f"stuck: {stuck}"
        assert not self.fleet.problems
        assert rows.keys() == self.fleet.accepted.keys(), "a job is lost, or nobody's"
        starts = defaultdict(list)
        for job_id, process in self.fleet.starts:
            starts[job_id].append(process)
        for job_id, row in rows.items():
            self.ends_as_it_should(row, self.fleet.accepted[job_id], starts[job_id])
        self.settled_once(await self.fleet.changes())

    def ends_as_it_should(self, row: Any, kind: str, starts: list[Process]) -> None:
        state, attempts = ENDS[kind]
        if row.state == "CANCELLED":
            assert row.job_id in self.cancelled
            return
        if row.quarantine_reason == "POISON" and kind != "deadly":
            # Nobody can tell processes that are killed under one job, again and again, from those that it kills.
            assert len(starts) > LOSSES_OF_POISON
            return
        assert (row.state, row.attempts) == (state, attempts), row
        assert (row.quarantine_reason == "POISON") == (kind == "deadly")
        assert row.settled_delivery == row.deliveries
        ended = ((row.finished_at or row.quarantined_at) - EPOCH_MS) / 1000
        if all(process.sound_until(ended) for process in starts):
            assert len(starts) == attempts, f"ran {len(starts)} times although nobody died: {row}"
        if state == "SUCCEEDED":
            assert row.result == b'{"delivery":%d}' % row.deliveries, "somebody else's result"

    def settled_once(self, changes: list[Any]) -> None:
        ends: Counter[UUID] = Counter()
        for change in changes:
            assert change.was == change.now or JobState(change.now) in TRANSITIONS[JobState(change.was)], (
                change
            )
            assert change.delivery_now - change.delivery_was in (0, 1), change
            if change.job_id in self.cancelled and (change.was, change.now) == ("QUARANTINED", "CANCELLED"):
                continue  # by a person's hand
            assert change.was not in FINAL, f"changed after its end: {change}"
            ends[change.job_id] += change.now in FINAL
        assert set(ends.values()) <= {1}
        assert ends.keys() == self.fleet.accepted.keys()


TestCrashMachine = CrashMachine.TestCase
TestCrashMachine.settings = settings(
    max_examples=10,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@contextmanager
def fleet_at_work(*kinds: str) -> Iterator[CrashMachine]:
    """One example by hand."""
    machine = CrashMachine()
    machine.some_work(list(kinds))
    yield machine
    machine.teardown()


@pytest.mark.parametrize("where", EVERYWHERE, ids=" ".join)
def test_trouble_at_every_await(where: tuple[str, str]) -> None:
    for kind in Kind:
        with fleet_at_work("good", "flaky", "bad") as machine:
            machine.trouble(where=where, kind=kind, nth=1)
            machine.time_passes(3.0)


def test_a_worker_that_wakes_too_late_changes_nothing() -> None:
    with fleet_at_work("long", "long", "good") as machine:
        machine.time_passes(3.0)
        machine.freeze(name="worker 1", seconds=30.0)
        machine.freeze(name="worker 2", seconds=1.0)
        machine.time_passes(10.0)
    assert len(machine.fleet.starts) > 3
