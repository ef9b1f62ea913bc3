"""Trace context at the door."""

from __future__ import annotations

import pytest

from jobkit.rpc.trace import incoming_trace, new_traceparent, sane_request_id, valid_traceparent

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "value", [GOOD, GOOD.replace("00-", "cc-", 1), GOOD.replace("00-", "cc-", 1) + "-more"]
)
def test_valid(value: str) -> None:
    assert valid_traceparent(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        GOOD.upper(),
        GOOD + "-more",  # version 00 ends after the flags
        GOOD + "\n",
        GOOD.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        "cc" + GOOD[2:] + "-" + "x" * 200,
    ],
)
def test_invalid(value: str) -> None:
    assert not valid_traceparent(value)


def test_a_made_one_is_valid_unsampled_and_new() -> None:
    made = new_traceparent()
    assert valid_traceparent(made)
    assert made.endswith("-00")
    assert made != new_traceparent()


def test_a_tracestate_without_its_parent_is_dropped() -> None:
    kept = incoming_trace(
        [("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2"), ("baggage", "k=v")]
    )
    assert (kept.traceparent, kept.tracestate, kept.baggage) == (GOOD, "a=1,b=2", "k=v")
    made = incoming_trace([("traceparent", "nonsense"), ("tracestate", "a=1"), ("baggage", "k=v")])
    assert valid_traceparent(made.traceparent)
    assert (made.tracestate, made.baggage) == ("", "k=v")


def test_two_parents_are_none() -> None:
    assert incoming_trace([("traceparent", GOOD), ("traceparent", GOOD)]).traceparent != GOOD


def test_what_is_too_long_or_unprintable_is_dropped() -> None:
    assert incoming_trace([("traceparent", GOOD), ("tracestate", "x" * 513)]).tracestate == ""
    assert incoming_trace([("baggage", "a\r\nb")]).baggage == ""


def test_request_ids_are_bounded_and_plain() -> None:
    assert sane_request_id("req-1.A_b:c/d+e=f@g") == "req-1.A_b:c/d+e=f@g"
    assert sane_request_id("x" * 129) == ""
    assert sane_request_id("a b") == ""
    assert sane_request_id("") == ""
