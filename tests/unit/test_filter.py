"""The `filter` of ListJobs: what it says, and that nothing but InvalidJob comes of what it cannot say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobkit.domain.errors import InvalidJob
from jobkit.domain.filter import MAX_FILTER, JobFilter, parse_filter
from jobkit.domain.job import JobState, QuarantineReason

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TICK = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", JobFilter()),
        ("  \n ", JobFilter()),
        ("state = QUEUED", JobFilter(state=JobState.QUEUED)),
        ("state=QUEUED", JobFilter(state=JobState.QUEUED)),
        ("state = JOB_STATE_QUEUED", JobFilter(state=JobState.QUEUED)),
        ('state = "QUEUED"', JobFilter(state=JobState.QUEUED)),
        ("job_type = email", JobFilter(job_type="email")),
        ("job_type = mail.send:v2-x_y", JobFilter(job_type="mail.send:v2-x_y")),
        ("quarantine.reason = POISON", JobFilter(reason=QuarantineReason.POISON)),
        (
            "quarantine.reason = QUARANTINE_REASON_BREAKER_OPEN",
            JobFilter(reason=QuarantineReason.BREAKER_OPEN),
        ),
        ("error.code = API_TIMEOUT", JobFilter(error_code="API_TIMEOUT")),
        ("request_id = order/17", JobFilter(request_id="order/17")),
        ("labels.tenant = a", JobFilter(labels=(("tenant", "a"),))),
        ("labels.a.b = c", JobFilter(labels=(("a.b", "c"),))),
        (r'labels.a = "x \"y\" \\ = AND z"', JobFilter(labels=(("a", r'x "y" \ = AND z'),))),
        ('labels.a = ""', JobFilter(labels=(("a", ""),))),
        (
            "state = QUEUED AND job_type = email AND labels.a = b AND labels.c = d",
            JobFilter(state=JobState.QUEUED, job_type="email", labels=(("a", "b"), ("c", "d"))),
        ),
    ],
)
def test_what_a_filter_says(text: str, expected: JobFilter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("term", "since", "before"),
    [
        ("> 2026-01-01T12:00:00Z", NOON + TICK, None),
        (">= 2026-01-01T12:00:00Z", NOON, None),
        ("< 2026-01-01T12:00:00Z", None, NOON),
        ("<= 2026-01-01T12:00:00Z", None, NOON + TICK),
        ("= 2026-01-01T12:00:00Z", NOON, NOON + TICK),
        ("> 2026-01-01T13:30:00.5+01:30", NOON + timedelta(seconds=0.5) + TICK, None),
        # Between two milliseconds.
        ("> 2026-01-01T12:00:00.0004Z", NOON + TICK, None),
        (">= 2026-01-01T12:00:00.0004Z", NOON + TICK, None),
        ("< 2026-01-01T12:00:00.0006Z", None, NOON + TICK),
        ("<= 2026-01-01T12:00:00.0006Z", None, NOON + TICK),
        ("= 2026-01-01T12:00:00.0006Z", NOON + TICK, NOON + TICK),
    ],
)
def test_times_are_bounds_in_whole_milliseconds(
    term: str, since: datetime | None, before: datetime | None
) -> None:
    operator, value = term.split()
    assert parse_filter(f'create_time {operator} "{value}"') == JobFilter(since=since, before=before)


def test_the_narrower_of_two_times_wins() -> None:
    text = " AND ".join(
        f'create_time {op} "2026-01-01T12:00:0{second}Z"'
        for op, second in ((">=", 1), (">=", 3), (">=", 2), ("<", 9), ("<", 7), ("<", 8))
    )
    assert parse_filter(text) == JobFilter(
        since=NOON + timedelta(seconds=3), before=NOON + timedelta(seconds=7)
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("state = QUEUED", "state = RUNNING"),
        ("job_type = a", "job_type = b"),
        ("quarantine.reason = POISON", "quarantine.reason = BREAKER_OPEN"),
        ("error.code = A", "error.code = B"),
        ("request_id = a", "request_id = b"),
        ("labels.x = a", "labels.x = b"),
    ],
)
def test_terms_that_exclude_one_another_match_nothing(pair: tuple[str, str]) -> None:
    one, other = pair
    assert parse_filter(f"{one} AND {other}").nothing
    assert not parse_filter(f"{one} AND {one}").nothing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state", "expected `field = value`"),
        ("state =", "expected `field = value`"),
        ("state QUEUED now", "expected an operator after 'state'"),
        ('"state" = QUEUED', "expected an operator after 'state'"),
        ('state "=" QUEUED', "expected an operator after 'state'"),
        ("state != QUEUED", "expected an operator after 'state'"),
        ("state ( QUEUED", "expected an operator after 'state'"),
        ("state = QUEUED AND", "expected AND before 'AND'"),
        ("state = QUEUED OR state = RUNNING", "expected AND before 'OR'"),
        ('state = QUEUED "AND" state = QUEUED', "expected AND before 'AND'"),
        ("state = QUEUED job_type = a", "expected AND before 'job_type'"),
        ("state = LOST", "'LOST' is no state: use PENDING, QUEUED"),
        ("state = queued", "'queued' is no state"),
        ("quarantine.reason = X", "'X' is no quarantine.reason: use BREAKER_OPEN"),
        ("state > QUEUED", "'state' can only be compared with ="),
        ("owner = me", "unknown field 'owner': use state"),
        ("labels. = x", "unknown field 'labels.'"),
        ("create_time > yesterday", "'yesterday' is no RFC 3339 time"),
        ("create_time > 2026-01-01T00:00:00", "needs a time zone"),
        ("create_time > 9999-12-31T23:59:59.9999Z", "too late a time"),
        ('labels.a = "x', "cannot be read at character 11"),
        ('labels.a = "x\x00"', "must not contain NUL"),
        ("x" * (MAX_FILTER + 1), "must be at most 2000 characters"),
    ],
)
def test_what_a_filter_cannot_say(text: str, message: str) -> None:
    with pytest.raises(InvalidJob, match=message.replace("(", r"\(").replace(".", r"\.")) as caught:
        parse_filter(text)
    assert caught.value.reason == "INVALID_FILTER"
    assert [violation.path for violation in caught.value.violations] == ["filter"]


WORDS = st.sampled_from(
    [
        *("state", "job_type", "labels.a", "labels.", "create_time", "request_id", "error.code", "AND", "OR"),
        *("=", "<", "<=", ">", ">=", "!=", "(", ")", '"', "\\", '"a b"', "QUEUED", "POISON", " ", "\n"),
        *("2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "\ud800"),
    ]
)


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=12).map(" ".join)))
@example("create_time <= 9999-12-31T23:59:59.999999Z")
@example('labels.a = "\\')
def test_nothing_but_invalid_job_comes_of_any_text(text: str) -> None:
    try:
        result = parse_filter(text)
    except InvalidJob:
        return
    assert "\x00" not in repr(result)


QUOTED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


@given(QUOTED)
def test_any_value_can_be_quoted(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_filter(f'request_id = "{quoted}"') == JobFilter(request_id=value)


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_bounds_say_what_the_operator_says_of_stored_times(moment: datetime) -> None:
    floor = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    for stored in (floor - TICK, floor, floor + TICK):
        for operator, holds in (
            ("<", stored < moment),
            ("<=", stored <= moment),
            ("=", stored == moment),
            (">=", stored >= moment),
            (">", stored > moment),
        ):
            found = parse_filter(f"create_time {operator} {moment.isoformat()}")
            within = (found.since is None or stored >= found.since) and (
                found.before is None or stored < found.before
            )
            assert within == holds, (operator, stored)
