"""The bulkhead inside a process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.slots import Slots


def fill(slots: Slots, job_type: str) -> int:
    """Start attempts until no more is admitted; returns how many run."""
    while slots.admits(job_type):
        slots.take(job_type)
    return slots.used(job_type)


def test_a_type_runs_at_most_its_own_bound() -> None:
    slots = Slots(per_type=16, in_all=256)
    assert fill(slots, "email") == 16
    slots.free("email")
    assert slots.admits("email")


def test_above_its_first_slot_a_type_leaves_as_many_free_as_it_takes() -> None:
    slots = Slots(per_type=100, in_all=10)
    assert fill(slots, "a") == 5
    assert fill(slots, "b") == 3  # two were free when it had three
    assert slots.total == 8


def test_200_hanging_jobs_of_several_types_leave_room_for_another_type() -> None:
    slots = Slots(per_type=16, in_all=64)
    hanging = [fill(slots, f"hanging-{n}") for n in range(40)]
    assert all(hanging)
    assert slots.admits("other")


def test_the_first_slot_is_every_types_own_even_past_the_bound() -> None:
    slots = Slots(per_type=4, in_all=2)
    for n in range(10):
        assert slots.admits(f"type-{n}")
        slots.take(f"type-{n}")
    assert not slots.admits("type-0")


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_whatever_runs_every_type_finds_a_slot(steps: list[tuple[int, bool]]) -> None:
    slots = Slots(per_type=4, in_all=12)
    for number, start in steps:
        name = f"type-{number}"
        if start and slots.admits(name):
            slots.take(name)
        elif not start and slots.used(name):
            slots.free(name)
        assert slots.total == sum(slots.used(f"type-{n}") for n in range(6))
        assert all(slots.used(f"type-{n}") <= 4 for n in range(6))
        assert slots.admits("newcomer")


def test_a_reserved_process_starts_nothing_not_even_a_types_first() -> None:
    slots = Slots(per_type=4, in_all=12)
    slots.reserve(True)
    assert fill(slots, "a") == 0
    slots.reserve(False)
    assert fill(slots, "a") == 4
