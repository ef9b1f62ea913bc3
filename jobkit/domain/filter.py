"""The `filter` of ListJobs: a subset of AIP-160, parsed into a value.

filter     = term { "AND" term }
term       = field op value
field      = "state" | "job_type" | "quarantine.reason" | "error.code" | "labels." key | "create_time"
           | "request_id" | "failure_group"
op         = "=" for every field; also "<" "<=" ">" ">=" for create_time
value      = a word, or a string in double quotes with \\" and \\\\ escaped
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.failure import group_number
from jobkit.domain.job import JobState, QuarantineReason

_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|(<=|>=|!=|[=<>()])|([^\s"=<>!()]+))')
# Nothing stored has these, and a database may refuse to compare with them.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
MAX_FILTER = 2000


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What to list; None or empty means any. Times: `since` is inclusive, `before` exclusive."""

    state: JobState | None = None
    job_type: str | None = None
    reason: QuarantineReason | None = None
    error_code: str | None = None
    request_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    failure_group: int | None = None
    since: datetime | None = None
    before: datetime | None = None
    # Two terms that exclude one another: nothing can match.
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where a page starts: after `job_id`, with the holds as they were at ledger `revision`."""

    job_id: UUID
    revision: int


def parse_filter(text: str) -> JobFilter:
    """Raises InvalidJob naming `filter`."""
    if len(text) > MAX_FILTER:
        raise _bad(f"must be at most {MAX_FILTER} characters")
    if _UNSTORABLE.search(text):
        raise _bad("must not contain NUL or half of a surrogate pair")
    words = _words(text)
    result = JobFilter()
    while words:
        if len(words) < 3:
            raise _bad("expected `field = value`")
        (field, quoted), (op, op_quoted), (value, _) = words[:3]
        if quoted or op_quoted or op not in _OPERATORS:
            raise _bad(f"expected an operator after '{field}'")
        result = _apply(result, field, op, value)
        words = words[3:]
        if words:
            if words[0] != ("AND", False) or len(words) == 1:
                raise _bad(f"expected AND before '{words[0][0]}'")
            words = words[1:]
    return result


E = TypeVar("E", JobState, QuarantineReason)
_OPERATORS = frozenset({"=", "<", "<=", ">", ">="})


def _words(text: str) -> list[tuple[str, bool]]:
    words: list[tuple[str, bool]] = []
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise _bad(f"cannot be read at character {position + 1}")
        quoted, op, word = match.groups()
        if quoted is not None:
            words.append((re.sub(r"\\(.)", r"\1", quoted), True))
        else:
            words.append((op or word, False))
        position = match.end()
    return words


def _apply(old: JobFilter, field: str, op: str, value: str) -> JobFilter:
    if field == "create_time":
        return _time(old, op, value)
    if op != "=":
        raise _bad(f"'{field}' can only be compared with =")
    if field.startswith("labels.") and len(field) > len("labels."):
        key = field.removeprefix("labels.")
        clash = any(k == key and v != value for k, v in old.labels)
        return replace(old, labels=(*old.labels, (key, value)), nothing=old.nothing or clash)
    match field:
        case "state":
            state = _enum(JobState, "JOB_STATE_", field, value)
            return replace(old, state=state, nothing=old.nothing or old.state not in (None, state))
        case "quarantine.reason":
            reason = _enum(QuarantineReason, "QUARANTINE_REASON_", field, value)
            return replace(old, reason=reason, nothing=old.nothing or old.reason not in (None, reason))
        case "job_type":
            return replace(old, job_type=value, nothing=old.nothing or old.job_type not in (None, value))
        case "error.code":
            return replace(old, error_code=value, nothing=old.nothing or old.error_code not in (None, value))
        case "request_id":
            return replace(old, request_id=value, nothing=old.nothing or old.request_id not in (None, value))
        case "failure_group":
            group = group_number(value)
            if group is None:
                raise _bad(f"'{value}' is no failure_group: it has 16 hexadecimal digits")
            clash = old.failure_group not in (None, group)
            return replace(old, failure_group=group, nothing=old.nothing or clash)
    raise _bad(
        f"unknown field '{field}': use state, job_type, quarantine.reason, error.code, labels.x, create_time, "
        "request_id or failure_group"
    )


def _enum(kind: type[E], prefix: str, field: str, value: str) -> E:
    try:
        return kind(value.removeprefix(prefix))
    except ValueError:
        allowed = ", ".join(member.value for member in kind)
        raise _bad(f"'{value}' is no {field}: use {allowed}") from None


def _time(old: JobFilter, op: str, value: str) -> JobFilter:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _bad(f"'{value}' is no RFC 3339 time") from None
    if moment.tzinfo is None:
        raise _bad(f"'{value}' needs a time zone, such as Z")
    floor = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    try:
        after = floor + _TICK
    except OverflowError:
        raise _bad(f"'{value}' is too late a time") from None
    ceiling = floor if floor == moment else after
    since = {">=": ceiling, ">": after, "=": ceiling}.get(op)
    before = {"<": ceiling, "<=": after, "=": after}.get(op)
    if since is not None and (old.since is None or since > old.since):
        old = replace(old, since=since)
    if before is not None and (old.before is None or before < old.before):
        old = replace(old, before=before)
    return old


# Stored times have milliseconds, so the bounds have too: what lies between two of them rounds away.
_TICK = timedelta(milliseconds=1)


def _bad(message: str) -> InvalidJob:
    return InvalidJob([FieldViolation("filter", message)], reason="INVALID_FILTER")
