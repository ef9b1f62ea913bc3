"""Views of workers to wire messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status
from selfheal.control.v1 import worker_pb2

from controlplane.streams.view import KindView, StreamView
from controlplane.workers import Convergence, WorkerView
from jobkit.ports import WorkerCommand
from jobkit.rpc.convert import to_timestamp


def _time(millis: int) -> Timestamp:
    return to_timestamp(datetime.fromtimestamp(millis / 1000, UTC))


def worker_to_wire(view: WorkerView) -> worker_pb2.Worker:
    if view.stream is not None:
        message = _connected(view.stream)
    else:
        alive = view.alive
        message = worker_pb2.Worker(
            worker_id=view.worker_id,
            state=worker_pb2.WORKER_STATE_DISCONNECTED,
            job_types=alive.serves if alive is not None else (),
            heartbeat_time=_time(alive.beat_at) if alive is not None else None,
        )
    if view.command is not None:
        message.drain.CopyFrom(_drain(view.command))
    return message


def convergence_to_wire(convergence: Sequence[Convergence]) -> list[worker_pb2.PushConvergence]:
    return [
        worker_pb2.PushConvergence(
            kind=one.kind,
            version=one.version,
            acked=one.acked,
            nacked=one.nacked,
            pending=one.pending,
            refusals=[
                worker_pb2.PushRefusal(worker_id=worker, error=Status(code=code, message=error))
                for worker, code, error in one.refusals
            ],
        )
        for one in convergence
    ]


def _connected(stream: StreamView) -> worker_pb2.Worker:
    who, figures = stream.identity, stream.figures
    draining = worker_pb2.WORKER_STATE_DRAINING
    return worker_pb2.Worker(
        worker_id=who.worker_id,
        instance_id=who.instance_id,
        state=draining if figures.draining else worker_pb2.WORKER_STATE_ACTIVE,
        hostname=who.hostname,
        pid=who.pid,
        release=who.release,
        job_types=() if figures.draining else who.serves,
        replica=stream.replica,
        connect_time=_time(stream.connected_at),
        heartbeat_time=_time(stream.heard_at),
        slots=who.slots,
        slots_used=figures.slots_used,
        memory_bytes=figures.memory,
        types=[
            worker_pb2.WorkerTypeFigures(
                job_type=one.job_type, in_flight=one.in_flight, processed=one.processed, failed=one.failed
            )
            for one in figures.types
        ],
        pushes=[_push(kind) for kind in stream.kinds],
    )


def _push(kind: KindView) -> worker_pb2.WorkerPush:
    message = worker_pb2.WorkerPush(
        kind=kind.kind,
        version=kind.version,
        held_version=kind.held,
        state=worker_pb2.PushState.Value(f"PUSH_STATE_{kind.state.value}"),
    )
    if kind.code:
        message.error.CopyFrom(Status(code=kind.code, message=kind.error))
    return message


def _drain(command: WorkerCommand) -> worker_pb2.WorkerDrain:
    message = worker_pb2.WorkerDrain(
        reason=command.reason, actor=command.actor, request_time=_time(command.asked_at)
    )
    if command.answered_at is not None:
        message.answer_time.CopyFrom(_time(command.answered_at))
    if command.code:
        message.error.CopyFrom(Status(code=command.code, message=command.error))
    return message
