"""What failures have in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit.domain.failure import MAX_SHAPE, group_name, group_number, group_of, shape_of

SHAPES = [
    ("", ""),
    ("connection refused", "connection refused"),
    ("connection to 10.0.0.1:5432 refused after 3.5s", "connection to <n> refused after <n>s"),
    ("user 'bob' not found", "user <text> not found"),
    ('no key "a b": 12', "no key <text>: <n>"),
    ("column `x` is missing", "column <text> is missing"),
    ("can't reach it, won't try", "can't reach it, won't try"),
    ("no mailbox a.b+c@mail.example.com", "no mailbox <email>"),
    ("GET https://api.example.com/v1/users/7?x=1 answered 503", "GET <url> answered <n>"),
    ("job 0190A1B2-0000-7000-8000-00000000000f is gone", "job <uuid> is gone"),
    ("<x at 0x7f3a2c> failed", "<x at <hex>> failed"),
    ("commit 9fceb02d0ae598e95dc970b74767f19372d61af8", "commit <hex>"),
    ("a decade of facade", "a decade of facade"),
    ("open /var/lib/app/data-7.db: no such file", "open <path>: no such file"),
    ("open ./tmp/x and ~/y/z", "open <path> and <path>"),
    ("C:\\Users\\bob\\x.txt is locked", "<path> is locked"),
    ("and/or", "and/or"),
    ("HTTP/1.1 404", "HTTP/<n> <n>"),
    ("line one\n  line\ttwo ", "line one line two"),
    ("at 2026-01-02T03:04:05Z", "at <n>-<n>-<n>T<n>Z"),
    ("Grüße an 7 Gäste", "Grüße an <n> Gäste"),
    ('an open "quote', 'an open "quote'),
]


@pytest.mark.parametrize(("message", "shape"), SHAPES, ids=[message for message, _ in SHAPES])
def test_a_shape_is_what_stays_the_same(message: str, shape: str) -> None:
    assert shape_of(message) == shape
    assert group_of("email", "E", message) == group_of("email", "E", shape)


@given(st.text(max_size=400))
def test_any_text_has_a_bounded_shape_on_one_line(message: str) -> None:
    shape = shape_of(message)
    assert len(shape) <= MAX_SHAPE
    assert shape == " ".join(shape.split())


@given(
    st.integers(min_value=0), st.uuids(), st.emails(), st.text("abcdef0123456789", min_size=12, max_size=40)
)
def test_what_differs_from_job_to_job_does_not_count(
    number: int, uuid: object, email: str, text: str
) -> None:
    def message(n: object, u: object, e: object, t: object) -> str:
        return f"job {u} of '{t}' waited {n} s"

    assert shape_of(message(number, uuid, email, text)) == "job <uuid> of <text> waited <n> s"


def test_long_messages_are_read_in_part_and_in_no_time() -> None:
    assert shape_of("x" * 10_000_000) == "x" * MAX_SHAPE
    for nasty in ("a@" * 5_000, "a." * 5_000, "/a" * 5_000, "'" * 10_000, "0a" * 5_000, "a://" * 3_000):
        assert len(shape_of(nasty)) <= MAX_SHAPE


def test_groups_are_told_apart_by_type_code_and_shape() -> None:
    groups = {group_of(t, c, m) for t in ("email", "sms") for c in ("A", "B") for m in ("x", "y")}
    assert len(groups) == 8
    assert all(0 <= group < 2**63 for group in groups)


def test_groups_never_change_between_releases() -> None:
    """They are stored."""
    assert group_name(group_of("email", "API_TIMEOUT", "no answer within 30 s")) == "442770330ca48db0"


@pytest.mark.parametrize("group", [0, 1, 2**63 - 1])
def test_a_name_reads_back(group: int) -> None:
    assert group_number(group_name(group)) == group


@pytest.mark.parametrize("name", ["", "x", "0" * 15, "0" * 17, "F" * 16, "f" * 16, "0x" + "0" * 14, "٣" * 16])
def test_other_names_are_none(name: str) -> None:
    assert group_number(name) is None
