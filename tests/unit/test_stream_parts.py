"""The small parts of the control stream, on both sides."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2
from selfheal.control.v1 import breaker_pb2
from selfheal.control.v1 import control_stream_pb2 as wire

from controlplane.streams.outbox import MAX_COMMANDS, Outbox
from controlplane.streams.view import (
    Figures,
    Identity,
    KindView,
    PushState,
    StreamView,
    TypeFigures,
    pack,
    unpack,
)
from controlplane.workers import Convergence, converge
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Proof, Transition
from jobkit.rpc.breakers import report_from_wire, report_to_wire, snapshot_from_wire, snapshot_to_wire
from worker.control import LONGEST_PAUSE, pause_before
from worker.figures import Figures as WorkerFigures
from worker.figures import resident_memory
from worker.pushes import Pushes, unpacked
from worker.reports import Reports
from worker.slots import Slots


def view_of(worker_id: str, *kinds: KindView) -> StreamView:
    identity = Identity(worker_id, "run", "host", 7, "1.0", ("email", "*"), 16)
    figures = Figures(2, 1 << 30, True, (TypeFigures("email", 2, 30, 4),))
    return StreamView(identity, "replica", 1_000, 2_000, figures, kinds)


def packed(message: wire.JobTypeSnapshot | wire.BreakerSnapshot) -> AnyMessage:
    found = AnyMessage()
    found.Pack(message)
    return found


# -- the outbox ---------------------------------------------------------------------------------------------------


async def test_of_everything_only_the_newest_waits() -> None:
    outbox = Outbox(wire.StreamWelcome(replica="r"))
    for version in range(1, 100):
        outbox.push(wire.Push(kind="breakers", version=version))
        outbox.pulse(version)
        outbox.receipt(100 - version)
    outbox.push(wire.Push(kind="job_types", version=1))
    assert outbox.waiting == 5
    messages = [await outbox.next() for _ in range(5)]
    assert [m.WhichOneof("message") for m in messages if m] == ["welcome", "pulse", "receipt", "push", "push"]
    assert messages[1] == wire.ControlMessage(pulse=wire.StreamPulse(sequence=99))
    assert messages[2] == wire.ControlMessage(receipt=wire.ReportReceipt(sequence=99))
    assert messages[3] == wire.ControlMessage(push=wire.Push(kind="breakers", version=99))
    assert outbox.waiting == 0
    assert await outbox.next() is None
    outbox.wake()
    assert await outbox.next() is None


async def test_commands_are_bounded() -> None:
    outbox = Outbox(wire.StreamWelcome())
    taken = [outbox.command(wire.Command(command_id=str(n))) for n in range(MAX_COMMANDS + 2)]
    assert taken == [True] * MAX_COMMANDS + [False] * 2


# -- views --------------------------------------------------------------------------------------------------------


def test_views_travel() -> None:
    views = [view_of("a", KindView("breakers", 3, 2, PushState.NACKED, 3, "why")), view_of("b")]
    assert unpack(pack(views)) == views


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'[{"identity": {}}]', b"\xff"])
def test_a_view_of_another_release_is_passed_over(data: bytes) -> None:
    assert unpack(data) == []


def test_convergence_counts_by_kind_and_version() -> None:
    views = [view_of(f"w{n:02}", KindView("policies", 7, 7, PushState.ACKED)) for n in range(12)]
    views.append(view_of("x", KindView("policies", 7, 6, PushState.NACKED, 3, "unknown job type")))
    views.append(
        view_of("y", KindView("policies", 6, 5, PushState.PENDING), KindView("b", 0, 0, PushState.ACKED))
    )
    assert converge(views) == [
        Convergence("policies", 7, 12, 1, 0, (("x", 3, "unknown job type"),)),
        Convergence("policies", 6, 0, 0, 1, ()),
    ]


# -- breakers on the wire -----------------------------------------------------------------------------------------


def test_a_report_tells_the_whole_record() -> None:
    proof = Proof({"API_TIMEOUT": 7}, {"API_TIMEOUT": 5}, 12, ("w1",), (uuid4(),), ("0af7",), 1_640)
    moves = (
        Transition(
            BreakerState.CLOSED, BreakerState.OPEN, 5, 1_700, Cause.EVIDENCE, "", "", "X", "w1", proof
        ),
        Transition(BreakerState.OPEN, BreakerState.HALF_OPEN, 6, 1_800, Cause.TIMER),
    )
    record = BreakerRecord("email", BreakerState.HALF_OPEN, 6, 1_700, 1_790, "X", 2, transitions=moves)
    report = report_to_wire(9, record)
    assert report.sequence == 9
    assert report_from_wire(wire.BreakerReport.FromString(report.SerializeToString())) == record
    closed = BreakerRecord("email", BreakerState.CLOSED, 7, forced=True)
    assert report_from_wire(report_to_wire(1, closed)) == closed


@pytest.mark.parametrize(
    "breaker",
    [
        breaker_pb2.Breaker(state=1, generation=1),
        breaker_pb2.Breaker(breaker="email", state=1),
        breaker_pb2.Breaker(breaker="email", generation=1),
        breaker_pb2.Breaker(breaker="email", generation=1, state=99),
        breaker_pb2.Breaker(
            breaker="e", generation=1, state=1, transitions=[breaker_pb2.BreakerTransition(generation=1)]
        ),
    ],
)
def test_a_report_that_cannot_be_is_refused(breaker: breaker_pb2.Breaker) -> None:
    with pytest.raises((ValueError, KeyError)):
        report_from_wire(wire.BreakerReport(sequence=1, breaker=breaker))


def test_a_snapshot_tells_what_remains_whatever_the_clocks() -> None:
    record = BreakerRecord("email", BreakerState.OPEN, 5, 1_000, 61_000, "X")
    snapshot = snapshot_to_wire(record, 21_000)
    assert snapshot.remaining.ToTimedelta() == timedelta(seconds=40)
    told = snapshot_from_wire(snapshot, 5_000_000)
    assert (told.state, told.generation, told.open_until) == (BreakerState.OPEN, 5, 5_040_000)
    late = snapshot_from_wire(snapshot_to_wire(record, 99_000), 7)
    assert late.open_until == 7
    forever = BreakerRecord("email", BreakerState.OPEN, 5, 1_000, None, forced=True)
    assert snapshot_from_wire(snapshot_to_wire(forever, 9), 7).open_until is None
    closed = snapshot_to_wire(BreakerRecord("email", generation=6), 9)
    assert not closed.HasField("remaining")
    assert snapshot_from_wire(closed, 7).opened_at is None


# -- the worker's side --------------------------------------------------------------------------------------------


async def answers(pushes: Pushes, count: int) -> list[wire.PushAck]:
    told: asyncio.Queue[wire.PushAck] = asyncio.Queue()
    running = asyncio.ensure_future(pushes.run(told.put_nowait))
    try:
        async with asyncio.timeout(5):
            return [await told.get() for _ in range(count)]
    finally:
        running.cancel()


async def test_pushes_are_taken_or_refused_with_a_reason() -> None:
    seen: list[str] = []

    async def take(resources: object) -> None:
        seen.extend(one.job_type for one in unpacked(resources, wire.JobTypeSnapshot))  # type: ignore[arg-type]

    async def burn(resources: object) -> None:
        raise RuntimeError("secret")

    pushes = Pushes({"job_types": take, "burning": burn})
    good, bad = packed(wire.JobTypeSnapshot(job_type="email")), packed(wire.BreakerSnapshot(breaker="email"))
    broken = AnyMessage(type_url=good.type_url, value=b"\xff\xff")
    told = []
    for version, (kind, resources) in enumerate(
        [
            ("job_types", [good]),
            ("job_types", [good, bad]),
            ("job_types", [broken]),
            ("x", []),
            ("burning", []),
        ],
        start=1,
    ):
        pushes.put(wire.Push(kind=kind, version=version, nonce=str(version), resources=resources))
        told += await answers(pushes, 1)
    assert [ack.HasField("error") for ack in told] == [False, True, True, True, True]
    assert [ack.error.code for ack in told[1:]] == [
        code_pb2.INVALID_ARGUMENT,
        code_pb2.INVALID_ARGUMENT,
        code_pb2.UNIMPLEMENTED,
        code_pb2.INTERNAL,
    ]
    assert "secret" not in told[4].error.message
    assert pushes.held == {"job_types": 1}
    assert seen == ["email"]


async def test_only_the_newest_of_a_kind_is_applied_and_answered() -> None:
    applied: list[int] = []
    go = asyncio.Event()

    async def slowly(resources: object) -> None:
        applied.append(len(resources))  # type: ignore[arg-type]
        await go.wait()

    pushes = Pushes({"k": slowly})
    told: asyncio.Queue[wire.PushAck] = asyncio.Queue()
    running = asyncio.ensure_future(pushes.run(told.put_nowait))
    for version in range(1, 6):
        pushes.put(
            wire.Push(kind="k", version=version, nonce=str(version), resources=[AnyMessage()] * version)
        )
        await asyncio.sleep(0)
    go.set()
    ack = await told.get()
    running.cancel()
    assert (ack.nonce, ack.version, applied) == ("5", 5, [1, 5])
    assert pushes.held == {"k": 5}


def test_reports_wait_for_their_receipt_in_order_and_are_bounded() -> None:
    woken: list[int] = []
    reports = Reports(most=3)
    reports.woken = lambda: woken.append(1)
    for generation in range(1, 6):
        reports.moved(BreakerRecord("email", generation=generation))
    assert (reports.waiting, len(woken)) == (3, 5)
    first = reports.after(0)
    assert first is not None
    assert (first[0], first[1].generation) == (3, 3)
    second = reports.after(first[0])
    assert second is not None
    assert second[0] == 4
    reports.received(4)
    left = reports.after(0)
    assert left is not None
    assert left[0] == 5
    reports.received(99)
    assert reports.after(0) is None


def test_figures_count_from_heartbeat_to_heartbeat() -> None:
    slots = Slots(16, 64)
    figures = WorkerFigures(slots)
    slots.take("email")
    for outcome in ("succeeded", "failed", "interrupted", "deferred"):
        figures.ended("sms", outcome)
    assert figures.slots_used == 1
    assert figures.take() == [("email", 1, 0, 0), ("sms", 0, 2, 1)]
    assert figures.take() == [("email", 1, 0, 0)]
    assert resident_memory() > 1_000_000


def test_a_fleet_does_not_come_back_as_one() -> None:
    assert pause_before(1, 0.0) < pause_before(1, 0.99) <= 0.25
    assert pause_before(50, 0.999) <= LONGEST_PAUSE
    assert pause_before(50, 0.0) >= LONGEST_PAUSE / 20
