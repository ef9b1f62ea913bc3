"""The header that is marshalled by hand is the one that pamqp reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.header import ContentHeader

from jobkit.adapters.rabbitmq.codec import Outgoing
from jobkit.adapters.rabbitmq.header import marshal_header

VALUES = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
    | st.integers(-(2**31), 2**31 - 1)
    | st.booleans()
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.binary(max_size=50),
    st.none() | st.just("application/x-protobuf"),
)
def test_it_reads_back_as_it_was_given(
    headers: dict[str, object], body: bytes, content_type: str | None
) -> None:
    message = Outgoing("jobs", "email", body, headers, content_type=content_type)
    data = marshal_header(7, message, "some-id.1")
    consumed, channel, header = frame.unmarshal(data)
    assert (consumed, channel) == (len(data), 7)
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(body)
    properties = header.properties
    assert (properties.headers or {}) == headers
    assert (properties.content_type, properties.delivery_mode) == (content_type, 2)
    assert properties.message_id == "some-id.1"


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="255"):
        marshal_header(1, Outgoing("jobs", "email", b"", {"x" * 256: 1}), "id")
