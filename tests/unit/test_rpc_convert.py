"""Struct, Timestamp and Duration; and JSON that would not survive them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from selfheal.jobs.v1 import job_pb2, job_service_pb2

from jobkit.rpc import convert
from jobkit.rpc.strict_json import MAX_NESTING, MalformedJson, decode, find_unsafe, find_unsafe_number

safe = st.integers(-(2**53), 2**53)
json_values = st.recursive(
    st.none() | st.booleans() | safe | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_struct_keeps_json(value: dict[str, Any]) -> None:
    struct = convert.dict_to_struct(value)
    again = convert.struct_to_dict(struct)
    assert again == value
    assert again == MessageToDict(struct)


def test_whole_doubles_become_integers_while_they_are_exact() -> None:
    value = {"one": 1.0, "half": 0.5, "edge": float(2**53), "beyond": 1e300, "minus": -0.0}
    read = convert.struct_to_dict(convert.dict_to_struct(value))
    assert {key: type(item) for key, item in read.items()} == {
        "one": int, "half": float, "edge": int, "beyond": float, "minus": float,
    }  # fmt: skip
    assert math.copysign(1, read["minus"]) == -1


def test_empty_containers_are_not_null() -> None:
    value: dict[str, Any] = {"o": {}, "l": [], "n": None, "t": True}
    assert convert.struct_to_dict(convert.dict_to_struct(value)) == value


def test_what_json_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError):
        convert.dict_to_struct({"a": object()})
    with pytest.raises(ValueError, match="too large"):
        convert.dict_to_struct({"a": 10**400})


def test_times() -> None:
    moment = datetime(2026, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
    assert convert.from_timestamp(convert.to_timestamp(moment)) == moment
    with pytest.raises(ValueError, match="zone"):
        convert.to_timestamp(moment.replace(tzinfo=None))
    length = timedelta(days=-3, microseconds=7)
    assert convert.from_duration(convert.to_duration(length)) == length


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"payload": {"a": [1, 2, 9007199254740993]}}', "payload.a[2]"),
        ('{"payload": {"a": -9007199254740993}}', "payload.a"),
        ('{"a": 18446744073709551616}', "a"),  # orjson alone would make a float of it
        ('{"a b": [{"c": 123456789012345678901234567890}]}', '["a b"][0].c'),
        ('{"a": 9007199254740992, "b": 1e300, "c": 0.5, "d": "99999999999999999999"}', None),
    ],
)
def test_integers_beyond_doubles_are_found_by_path(text: str, path: str | None) -> None:
    assert find_unsafe_number(decode(text.encode())) == path


def test_nan_lone_surrogates_and_depth_are_found() -> None:
    assert find_unsafe_number({"payload": {"a": [0.0, math.nan]}}) == "payload.a[1]"
    assert find_unsafe_number([math.inf], "x") == "x[0]"
    assert (found := find_unsafe({"a": ["\ud800"]})) is not None
    assert found.path == "a[0]"
    assert find_unsafe({"a": {"\udfff": 1}}) is not None
    assert find_unsafe_number({"a": "\ud800"}) is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"NaN", b'{"a": Infinity}', b"1e999", b'"\\ud800"', b"\xff", b"[" * 5000, b"9" * 5000]
)
def test_malformed_json_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedJson):
        decode(text)


def test_duplicate_keys_are_fine() -> None:
    assert decode(b'{"a": 1, "a": 2}') == {"a": 2}


def test_the_deepest_payload_that_is_accepted_can_be_read_back_over_grpc() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(levels):
            value = {"a": value}
        return value

    deepest = nested(MAX_NESTING)
    assert find_unsafe(deepest, "payload") is None
    assert find_unsafe(nested(MAX_NESTING + 1), "payload") is not None
    job = job_pb2.Job(payload=convert.dict_to_struct(deepest))
    response = job_service_pb2.BatchSubmitJobsResponse(
        results=[job_service_pb2.BatchSubmitJobsResult(job=job)]
    )
    again = job_service_pb2.BatchSubmitJobsResponse.FromString(response.SerializeToString())
    assert convert.struct_to_dict(again.results[0].job.payload) == deepest
