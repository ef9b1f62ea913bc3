"""Job types on the control stream: that they exist, and what operators want of them."""

from __future__ import annotations

from selfheal.control.v1 import control_stream_pb2 as wire

from jobkit.ports import Pause, TypeInfo


def type_to_wire(info: TypeInfo) -> wire.JobTypeSnapshot:
    return wire.JobTypeSnapshot(
        job_type=info.job_type,
        paused=info.pause is not None,
        slot_limit=info.slot_limit,
        revision=info.revision,
    )


def type_from_wire(snapshot: wire.JobTypeSnapshot) -> TypeInfo:
    """As far as a lane needs it: whose pause it is does not matter there. Raises ValueError for what cannot be."""
    if not snapshot.job_type:
        raise ValueError("a job type without a name")
    limit = snapshot.slot_limit if snapshot.HasField("slot_limit") else None
    if limit is not None and limit < 1:
        raise ValueError(f"the limit of '{snapshot.job_type}' must be at least 1")
    pause = Pause("", "", 0) if snapshot.paused else None
    return TypeInfo(snapshot.job_type, pause=pause, slot_limit=limit, revision=snapshot.revision)
