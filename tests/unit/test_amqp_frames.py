"""Deliveries are taken out of the stream whole, however the socket cuts it; all other bytes go on as they came."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, heartbeat
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from jobkit.adapters.rabbitmq import frames
from jobkit.adapters.rabbitmq.frames import Arrived, DeliveryReader
from jobkit.adapters.rabbitmq.header import UNREADABLE, read_header

OURS, OTHER = 5, 6


def content(channel: int, body: bytes, headers: dict[str, Any] | None = None, cut: int = 4096) -> bytes:
    """Header and body frames."""
    properties = commands.Basic.Properties(
        content_type="text/plain",
        content_encoding="none",
        headers=headers or {},
        delivery_mode=2,
        message_id="m",
    )
    parts = [frame.marshal(ContentHeader(0, len(body), properties), channel)]
    parts += [frame.marshal(ContentBody(body[at : at + cut]), channel) for at in range(0, len(body), cut)]
    return b"".join(parts)


def delivery(tag: int, body: bytes, channel: int = OURS, cut: int = 4096) -> bytes:
    method = commands.Basic.Deliver("ctag", tag, tag % 2 == 0, "jobs", "email")
    return frame.marshal(method, channel) + content(channel, body, {"x-job-id": f"id{tag}", "n": tag}, cut)


def ack(tag: int, channel: int = OURS) -> bytes:
    return frame.marshal(commands.Basic.Ack(tag), channel)


async def fed(pieces: Sequence[bytes], *, ended: bool = True) -> tuple[list[Arrived], bytes]:
    """What was taken, and what the library gets to read."""
    reader = DeliveryReader()
    taken: list[Arrived] = []
    reader._fed_at = asyncio.get_running_loop().time()
    reader.take(OURS, taken.append)
    for piece in pieces:
        reader.feed_data(piece)
    if ended:
        reader.feed_eof()
    return taken, await reader.read()


STREAM = [
    delivery(1, b"one"),
    ack(7),
    delivery(2, b""),
    frame.marshal(heartbeat.Heartbeat(), 0),
    delivery(3, b"another channel's", OTHER),
    delivery(4, bytes(range(256)) * 5, cut=100),
    frame.marshal(commands.Basic.GetOk(5, False, "jobs", "email", 0), OURS) + content(OURS, b"got"),
]
PASSED = b"".join(STREAM[n] for n in (1, 3, 4, 6))


@given(st.lists(st.integers(1, 400), max_size=60))
def test_the_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    whole, pieces = b"".join(STREAM), []
    for cut in cuts:
        pieces.append(whole[:cut])
        whole = whole[cut:]
    taken, passed = asyncio.run(fed([*pieces, whole]))
    assert [(a.tag, a.body, a.redelivered) for a in taken] == [
        (1, b"one", False),
        (2, b"", True),
        (4, bytes(range(256)) * 5, True),
    ]
    assert {a.consumer for a in taken} == {"ctag"}
    assert taken[0].properties.headers == {"x-job-id": "id1", "n": 1}
    assert passed == PASSED


async def test_nothing_is_taken_of_a_channel_that_nobody_asked_for() -> None:
    taken, passed = await fed([delivery(1, b"x", OTHER)])
    assert (taken, passed) == ([], delivery(1, b"x", OTHER))


async def test_half_a_frame_is_left_to_the_library_at_the_end() -> None:
    taken, passed = await fed([delivery(1, b"x")[:30]])
    assert taken == []
    assert passed == delivery(1, b"x")[:30]


@pytest.mark.parametrize(
    "garbage", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", ack(1)[:-1] + b"\x00"]
)
async def test_what_is_not_amqp_is_left_to_the_library(garbage: bytes) -> None:
    taken, passed = await fed([ack(3), garbage, delivery(1, b"x")])
    assert taken == []
    assert passed == ack(3) + garbage + delivery(1, b"x")


async def test_the_library_sees_a_sign_of_life_while_all_that_comes_is_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "_ALIVE_SECONDS", -1.0)
    taken, passed = await fed([delivery(1, b"x")])
    assert len(taken) == 1
    assert passed == frame.marshal(heartbeat.Heartbeat(), 0)


async def test_a_receiver_that_fails_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    reader = DeliveryReader()
    taken: list[int] = []

    def receive(arrived: Arrived) -> None:
        taken.append(arrived.tag)
        raise ValueError("mine")

    reader.take(OURS, receive)
    reader.feed_data(delivery(1, b"x") + delivery(2, b"y"))
    assert taken == [1, 2]
    assert "a consumer failed" in caplog.text


VALUES = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**31), 2**31),
    st.booleans(),
    st.none(),
    st.binary(max_size=9).map(bytearray),
)


@given(
    st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=20), VALUES, max_size=6),
    st.one_of(st.none(), st.just("text/plain")),
    st.one_of(st.none(), st.just("gzip")),
)
def test_properties_are_read_as_the_library_reads_them(
    headers: dict[str, Any], content_type: str | None, encoding: str | None
) -> None:
    said = commands.Basic.Properties(
        content_type=content_type, content_encoding=encoding, headers=headers, priority=3, app_id="a"
    )
    whole = frame.marshal(ContentHeader(0, 17, said), OURS)
    _, _, theirs = frame.unmarshal(whole)
    assert isinstance(theirs, ContentHeader)
    ours = read_header(whole[7:-1])
    assert (ours.body_size, ours.content_type) == (17, content_type)
    assert ours.headers == (theirs.properties.headers or {})


def test_a_header_that_cannot_be_read_says_so() -> None:
    start = struct.pack(">HHQH", 60, 0, 9, 0x2000)
    for rest in (
        b"",
        b"\x00\x00\x00\x08\x01a?zzzz",
        b"\x00\x00\x00\xff\x01aS\x00\x00",
        b"\x00\x00\x00\x04\x03\xff\xff\xff",
    ):
        assert read_header(start + rest).content_type == UNREADABLE
    assert read_header(struct.pack(">HHQH", 60, 0, 9, 0x2001)).body_size == 9
