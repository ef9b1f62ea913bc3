"""Messages of the control stream to values."""

from __future__ import annotations

from datetime import timedelta

from selfheal.control.v1 import control_stream_pb2 as wire

from controlplane.streams.view import Figures, Identity, TypeFigures
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.rpc.convert import to_duration

MAX_WORKER_ID = 128
MAX_INSTANCE_ID = 64
MAX_TEXT = 256
MAX_TYPES = 10_000


def identity_from_wire(hello: wire.WorkerHello) -> Identity:
    """Raises InvalidJob with everything that is wrong."""
    wrong = [
        FieldViolation(f"hello.{name}", f"must have 1 to {most} characters")
        for name, value, most in (
            ("worker_id", hello.worker_id, MAX_WORKER_ID),
            ("instance_id", hello.instance_id, MAX_INSTANCE_ID),
        )
        if not 1 <= len(value) <= most
    ]
    if len(hello.job_types) > MAX_TYPES:
        wrong.append(FieldViolation("hello.job_types", f"must be at most {MAX_TYPES}"))
    if wrong:
        raise InvalidJob(wrong)
    return Identity(
        worker_id=hello.worker_id,
        instance_id=hello.instance_id,
        hostname=hello.hostname[:MAX_TEXT],
        pid=hello.pid,
        release=hello.release[:MAX_TEXT],
        serves=tuple(sorted(hello.job_types)),
        slots=hello.slots,
    )


def figures_from_wire(heartbeat: wire.WorkerHeartbeat) -> Figures:
    """Raises InvalidJob for more types than there can be."""
    if len(heartbeat.types) > MAX_TYPES:
        raise InvalidJob([FieldViolation("heartbeat.types", f"must be at most {MAX_TYPES}")])
    return Figures(
        slots_used=heartbeat.slots_used,
        memory=heartbeat.memory_bytes,
        draining=heartbeat.draining,
        types=tuple(
            TypeFigures(one.job_type, one.in_flight, one.processed, one.failed) for one in heartbeat.types
        ),
    )


def welcome_to_wire(replica: str, heartbeat: float, silence: float) -> wire.StreamWelcome:
    """`heartbeat` and `silence` in seconds."""
    return wire.StreamWelcome(
        replica=replica,
        heartbeat_interval=to_duration(timedelta(seconds=heartbeat)),
        silence_limit=to_duration(timedelta(seconds=silence)),
    )
