"""Records survive the way to Redis and back, and nothing that lies there can break a reader."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from jobkit.adapters.redis import codec
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Proof, Transition

MS = st.integers(0, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STATES = st.sampled_from(BreakerState)
COUNTS = st.dictionaries(TEXT, MS, max_size=3)
PROOFS = st.builds(
    Proof,
    failures=COUNTS,
    distinct_jobs=COUNTS,
    sample=MS,
    workers=st.lists(TEXT, max_size=3).map(tuple),
    jobs=st.lists(st.uuids(), max_size=3).map(tuple),
    traces=st.lists(TEXT, max_size=3).map(tuple),
)
MOVES = st.builds(
    Transition,
    from_state=STATES,
    to_state=STATES,
    generation=MS,
    at=MS,
    cause=st.sampled_from(Cause),
    actor=TEXT,
    reason=TEXT,
    error_code=TEXT,
    scope=TEXT,
    proof=st.none() | PROOFS,
)
RECORDS = st.builds(
    BreakerRecord,
    name=st.just("x"),
    state=STATES,
    generation=MS,
    opened_at=st.none() | MS,
    open_until=st.none() | MS,
    error_code=TEXT,
    reopened=MS,
    forced=st.booleans(),
    successes=MS,
    transitions=st.lists(MOVES, max_size=16).map(tuple),
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: BreakerRecord) -> None:
    assert codec.decode("x", codec.encode(record)) == record


@given(ANY)
def test_whatever_lies_there_is_a_record_or_none(value: object) -> None:
    codec.decode("x", json.dumps(value))


@given(st.sampled_from(BreakerState), st.integers(0, 9), st.dictionaries(st.text(), ANY), ANY)
def test_fields_of_other_releases_do_not_matter(
    state: BreakerState, generation: int, more: dict[str, object], odd: object
) -> None:
    fields = ("opened_at", "open_until", "error_code", "reopened", "forced", "successes", "transitions")
    stored = more | dict.fromkeys(fields, odd) | {"state": state, "generation": generation}
    record = codec.decode("x", json.dumps(stored, allow_nan=False) if _finite(stored) else "")
    assert record is None or (record.state, record.generation) == (state, generation)


def _finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
