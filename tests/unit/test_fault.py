"""Which runs an injected fault hits, and what may be injected at all."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selfheal.control.v1 import control_stream_pb2 as wire

from jobkit.domain.fault import Fault, find_fault_faults, fraction
from jobkit.rpc.faults import fault_from_wire, fault_to_wire

FAULT = Fault(UUID(int=7), "email", "API_TIMEOUT", 0.3, timedelta(seconds=90), "ada", "to see it heal")


def test_about_its_share_of_the_runs_is_hit() -> None:
    hits = sum(FAULT.hits(UUID(int=number), 1) for number in range(10_000))
    assert abs(hits - 3_000) < 4 * math.sqrt(10_000 * 0.3 * 0.7)


@given(st.uuids(), st.uuids(), st.integers(min_value=1, max_value=2**40))
def test_the_draw_is_a_fraction_and_always_the_same(fault: UUID, job: UUID, delivery: int) -> None:
    drawn = fraction(fault, job, delivery)
    assert 0 <= drawn < 1
    assert fraction(fault, job, delivery) == drawn
    assert replace(FAULT, fault_id=fault, rate=1.0).hits(job, delivery)


def test_a_job_that_was_hit_may_be_spared_at_its_next_run() -> None:
    job = uuid4()
    assert len({FAULT.hits(job, delivery) for delivery in range(1, 100)}) == 2


@pytest.mark.parametrize(
    ("code", "rate", "ttl", "paths"),
    [
        ("API_TIMEOUT", 1.0, timedelta(days=1), []),
        ("A" * 64, 1e-9, timedelta(milliseconds=1), []),
        ("", 0.5, timedelta(seconds=1), ["error_code"]),
        ("not a code", 0.0, timedelta(0), ["error_code", "rate", "ttl"]),
        ("A", math.nan, timedelta(seconds=-1), ["rate", "ttl"]),
        ("A", 1.1, timedelta(days=1, milliseconds=1), ["rate", "ttl"]),
    ],
)
def test_what_cannot_be_injected(code: str, rate: float, ttl: timedelta, paths: list[str]) -> None:
    assert [violation.path for violation in find_fault_faults(code, rate, ttl)] == paths


def test_a_fault_travels_with_the_time_that_it_has_left() -> None:
    snapshot = wire.FaultSnapshot.FromString(fault_to_wire(FAULT).SerializeToString())
    assert fault_from_wire(snapshot) == FAULT
    assert FAULT.message == "injected by ada: to see it heal"


@pytest.mark.parametrize("changes", [{"fault_id": "x"}, {"rate": 2.0}, {"job_type": ""}, {"error_code": "-"}])
def test_a_fault_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    snapshot = fault_to_wire(FAULT)
    for name, value in changes.items():
        setattr(snapshot, name, value)
    with pytest.raises(ValueError, match=r".+"):
        fault_from_wire(snapshot)
