"""Which ids a page holds: a merge of bounded index scans, newest first, one per (type, state), or one that a label,
a request, an error code or a reason leads. Never one OR over states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobkit.adapters.sql.rows import CLOCK_SLACK_MS, Hold, lowest_id, millis
from jobkit.adapters.sql.tables import job_labels, jobs, request_keys
from jobkit.adapters.sql.terms import TEXTS, any_text
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import JobState

Scan = sa.Select[Any]
Terms = Sequence[sa.ColumnElement[bool]]
# Types, a stored state, and what more its rows must meet.
Group = tuple[Sequence[str], JobState, Terms]


def page_scan(
    dialect: str, query: JobFilter, holds: Mapping[str, Hold], now: int, after: PageToken | None, limit: int
) -> Scan | None:
    """The newest `limit` ids that `query` finds, or None when it can find none."""
    led = query.request_id is not None or query.labels or query.error_code is not None or _by_person(query)
    led = led or query.failure_group is not None
    if led or (query.job_type is None and not _by_hold(query)):
        return _led_scan(query, holds, now, after).limit(limit)
    newest_first = (
        sa.select(jobs.c.job_id)
        .where(*_bounds(query, after, jobs.c.job_id))
        .order_by(jobs.c.job_id.desc())
        .limit(limit)
    )
    types = [query.job_type] if query.job_type is not None else sorted(holds)
    parts = [_per_type(dialect, newest_first, group) for group in _groups(query, types, holds, now)]
    if not parts:
        return None
    merged = sa.union_all(*parts).subquery()
    return sa.select(merged.c.job_id).order_by(merged.c.job_id.desc()).limit(limit)


def _per_type(dialect: str, newest_first: Scan, group: Group) -> Scan:
    """One bounded scan for each type of a group, as one statement whose text does not grow with the types."""
    types, state, more = group
    listed = sa.literal(types, type_=TEXTS)
    if dialect == "postgresql":
        each = sa.func.unnest(listed).table_valued("value", name="each_type").render_derived()
        scan = newest_first.where(
            jobs.c.job_type == each.c.value, jobs.c.state == state.value, *more
        ).lateral()
        return sa.select(scan.c.job_id).select_from(each.join(scan, sa.true()))
    each = sa.func.json_each(listed).table_valued("value", name="each_type")
    scan_ids = newest_first.where(jobs.c.job_type == each.c.value, jobs.c.state == state.value, *more)
    chosen = jobs.alias("chosen")
    return sa.select(chosen.c.job_id).select_from(
        each.join(chosen, chosen.c.job_id.in_(scan_ids.correlate(each)))
    )


def _groups(query: JobFilter, types: Sequence[str], holds: Mapping[str, Hold], now: int) -> list[Group]:
    """The stored states that read as what was asked for. The reason is that of a hold, or none."""
    held = [t for t in types if t in holds and holds[t].held and query.reason in (None, holds[t].reason)]
    free = [t for t in types if t not in held]
    groups: list[Group] = []
    wanted = query.state
    if not _by_hold(query):
        groups = [(types, state, ()) for state in JobState]
    elif wanted is None or wanted is JobState.QUARANTINED:
        if query.reason is None:
            groups.append((types, JobState.QUARANTINED, ()))
        groups.append((held, JobState.PENDING, ()))
        groups.append((held, JobState.QUEUED, ()))
        groups.append((held, JobState.RETRYING, [jobs.c.due_at <= now]))
    elif query.reason is None:
        groups.append((free if wanted.waiting else types, wanted, ()))
        if wanted is JobState.RETRYING:
            groups.append((held, wanted, [jobs.c.due_at > now]))
    return [group for group in groups if group[0]]


def _led_scan(query: JobFilter, holds: Mapping[str, Hold], now: int, after: PageToken | None) -> Scan:
    """One scan of the narrowest index; what that does not cover is a condition on its rows."""
    led_by: sa.Column[Any] = jobs.c.job_id
    scan = sa.select(jobs.c.job_id)
    labels = query.labels
    if query.request_id is not None:
        owner = sa.select(request_keys.c.job_id).where(request_keys.c.request_id == query.request_id)
        scan = scan.where(jobs.c.job_id == owner.scalar_subquery())
    elif labels:
        (key, value), labels = labels[0], labels[1:]
        led_by = job_labels.c.job_id
        scan = scan.join(job_labels, job_labels.c.job_id == jobs.c.job_id)
        scan = scan.where(job_labels.c.key == key, job_labels.c.value == value)
    if query.job_type is not None:
        scan = scan.where(jobs.c.job_type == query.job_type)
    if query.error_code is not None:
        scan = scan.where(jobs.c.error_code == query.error_code)
    if query.failure_group is not None:
        scan = scan.where(jobs.c.failure_group == query.failure_group, jobs.c.quarantine_reason.is_not(None))
    for key, value in labels:
        other = job_labels.alias()
        same = sa.and_(other.c.key == key, other.c.value == value, other.c.job_id == jobs.c.job_id)
        scan = scan.where(sa.exists().where(same))
    if _by_hold(query):
        scan = scan.where(_reads_as(query, holds, now))
    return scan.where(*_bounds(query, after, led_by)).order_by(led_by.desc())


def _by_hold(query: JobFilter) -> bool:
    """Whether an answer depends on which types are held."""
    return query.state is not None or query.reason is not None


def _by_person(query: JobFilter) -> bool:
    """Whether the reason asked for is a stored one, rather than derived from a hold."""
    return query.reason is not None and not query.reason.by_hold


def _bounds(
    query: JobFilter, after: PageToken | None, led_by: sa.Column[Any]
) -> list[sa.ColumnElement[bool]]:
    """What every scan obeys, on the id of the index that leads it. Ids are UUIDv7, so a time is also a range of
    the index."""
    terms: list[sa.ColumnElement[bool]] = []
    if after is not None:
        terms.append(led_by < after.job_id)
    if query.since is not None:
        terms.append(jobs.c.created_at >= millis(query.since))
        terms.append(led_by >= lowest_id(millis(query.since) - CLOCK_SLACK_MS))
    if query.before is not None:
        terms.append(jobs.c.created_at < millis(query.before))
        terms.append(led_by < lowest_id(millis(query.before) + CLOCK_SLACK_MS))
    return terms


def _reads_as(query: JobFilter, holds: Mapping[str, Hold], now: int) -> sa.ColumnElement[bool]:
    """What a job reads as, as a condition on its stored row."""
    by_hold = query.reason is not None and query.reason.by_hold
    held_types = [
        name for name, hold in holds.items() if hold.held and (not by_hold or hold.reason is query.reason)
    ]
    held = sa.and_(
        any_text(jobs.c.job_type, held_types),
        jobs.c.state.in_([JobState.PENDING.value, JobState.QUEUED.value, JobState.RETRYING.value]),
        sa.or_(jobs.c.state != JobState.RETRYING.value, jobs.c.due_at <= now),
    )
    if not held_types:
        held = sa.false()
    if by_hold:
        matches = held
    elif query.reason is not None:
        matches = jobs.c.quarantine_reason == query.reason.value
    else:
        matches = sa.true()
    if query.state is JobState.QUARANTINED:
        return sa.and_(matches, sa.or_(held, jobs.c.state == JobState.QUARANTINED.value))
    if query.state is not None:
        return sa.and_(matches, jobs.c.state == query.state.value, sa.not_(held))
    return matches
