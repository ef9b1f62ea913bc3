"""Faults on the control stream."""

from __future__ import annotations

from uuid import UUID

from selfheal.control.v1 import control_stream_pb2 as wire

from jobkit.domain.fault import Fault, find_fault_faults
from jobkit.rpc.convert import from_duration, to_duration


def fault_to_wire(fault: Fault) -> wire.FaultSnapshot:
    return wire.FaultSnapshot(
        fault_id=str(fault.fault_id),
        job_type=fault.job_type,
        error_code=fault.error_code,
        rate=fault.rate,
        remaining=to_duration(fault.remaining),
        actor=fault.actor,
        reason=fault.reason,
    )


def fault_from_wire(told: wire.FaultSnapshot) -> Fault:
    """As `fault_to_wire`. Raises ValueError for what cannot be."""
    fault = Fault(
        UUID(told.fault_id),
        told.job_type,
        told.error_code,
        told.rate,
        from_duration(told.remaining),
        told.actor,
        told.reason,
    )
    wrong = [violation.path for violation in find_fault_faults(fault.error_code, fault.rate, fault.remaining)]
    if wrong or not told.job_type:
        raise ValueError(f"a fault cannot be used: {', '.join(wrong or ['job_type'])}")
    return fault
