"""What operators can ask of quarantined jobs and do to them, in bulk."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from uuid import UUID

from jobkit.domain.asked import page_size, text_violations
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.filter import JobFilter, parse_filter
from jobkit.domain.job import JobState
from jobkit.domain.redrive import FOR_A_PERSON, MAX_RATE, MIN_RATE, NewRedrive, Redrive
from jobkit.domain.submit import REQUEST_ID
from jobkit.host.channels import ENDED
from jobkit.host.world import World, new_id
from jobkit.ports import FailureGroup, GroupToken
from jobkit.tally import Counts

_log = logging.getLogger(__name__)

MAX_JOBS = 1_000_000  # that one redrive may match
MAX_DISCARDED = 10_000  # by one call
BATCH = 500
DEFAULT_PAGE = 50
START = UUID(int=0)
ANYBODY = "anonymous"


class QuarantineDesk:
    """The use cases. Raises the errors of `domain.errors`."""

    def __init__(self, world: World, finished: Counts) -> None:
        self._world = world
        self._finished = finished

    async def groups(
        self, filter_text: str, asked: int, after: GroupToken | None
    ) -> tuple[list[FailureGroup], GroupToken | None]:
        query, size = read_filter(filter_text), page_size(asked, DEFAULT_PAGE)
        found = await self._world.quarantine.groups(query, size + 1, after)
        last = found[size - 1] if len(found) > size else None
        return found[:size], None if last is None else GroupToken(last.count, last.group)

    async def redrive(
        self, filter_text: str, rate: float | None, actor: str, reason: str, request_id: str
    ) -> tuple[Redrive, bool]:
        """The redrive as it begins, and whether its request_id had been seen before."""
        check_redrive(filter_text, rate, actor, reason, request_id)
        new = NewRedrive(new_id(), filter_text, rate, actor or ANYBODY, reason, request_id)
        redrive, existed = await self._world.redrives.create(new, MAX_JOBS)
        if not existed:
            _log.warning(
                "redrive %s of %d jobs (%s) by %s (%s)",
                redrive.redrive_id,
                redrive.counts.total,
                filter_text or "all",
                redrive.actor,
                reason,
            )
        return redrive, existed

    async def count(self, filter_text: str) -> dict[str, int]:
        """How many match now, by type, counted up to `MAX_JOBS` in all."""
        return await self._world.quarantine.count(read_filter(filter_text), MAX_JOBS)

    async def get(self, redrive_id: UUID) -> Redrive:
        return await self._world.redrives.get(redrive_id)

    async def page(self, asked: int, before: UUID | None) -> tuple[list[Redrive], UUID | None]:
        size = page_size(asked, DEFAULT_PAGE)
        found = await self._world.redrives.page(size + 1, before)
        return found[:size], found[size - 1].redrive_id if len(found) > size else None

    async def cancel(self, redrive_id: UUID, actor: str, reason: str) -> Redrive:
        _refuse(text_violations(actor, reason))
        redrive = await self._world.redrives.cancel(redrive_id, actor or ANYBODY, reason)
        _log.warning("redrive %s cancelled by %s (%s)", redrive_id, actor or ANYBODY, reason)
        return redrive

    async def discard(self, filter_text: str, actor: str, reason: str) -> tuple[int, bool]:
        """How many are discarded now, and whether there are more. Batch by batch, type by type, oldest first."""
        query = check_discard(filter_text, actor, reason)
        left = await self._world.quarantine.count(query, MAX_DISCARDED + 1)
        discarded = 0
        for job_type in sorted(left):
            discarded += await self._discard_type(job_type, query, MAX_DISCARDED - discarded)
        _log.warning("%d jobs (%s) discarded by %s (%s)", discarded, filter_text, actor or ANYBODY, reason)
        return discarded, sum(left.values()) > MAX_DISCARDED

    async def _discard_type(self, job_type: str, query: JobFilter, limit: int) -> int:
        discarded, after = 0, START
        while discarded < limit:
            wanted = min(BATCH, limit - discarded)
            ids = await self._world.quarantine.discard(job_type, query, after, wanted)
            if ids:
                self._finished.labels(job_type, "discarded").inc(len(ids))
                await self._world.signals.send(ENDED, ids)
                after = ids[-1]
            discarded += len(ids)
            if len(ids) < wanted:
                break
        return discarded


def check_discard(filter_text: str, actor: str, reason: str) -> JobFilter:
    """Raises InvalidJob. What cannot be taken back must be asked for."""
    wrong = text_violations(actor, reason)
    if not filter_text.strip():
        rule = "must not be empty: `state = QUARANTINED` stands for all that wait for a person"
        wrong.append(FieldViolation("filter", rule))
    _refuse(wrong)
    return read_filter(filter_text)


def check_redrive(filter_text: str, rate: float | None, actor: str, reason: str, request_id: str) -> None:
    """Raises InvalidJob with everything that is wrong."""
    wrong = text_violations(actor, reason)
    if rate is not None and not (math.isfinite(rate) and MIN_RATE <= rate <= MAX_RATE):
        wrong.append(FieldViolation("rate", f"must be {MIN_RATE:g} to {MAX_RATE:g} jobs a second"))
    if request_id and not REQUEST_ID.fullmatch(request_id):
        wrong.append(
            FieldViolation("request_id", "must be 1 to 128 printable ASCII characters without spaces")
        )
    _refuse(wrong)
    read_filter(filter_text)


def read_filter(text: str) -> JobFilter:
    """The filter of a list, of jobs that wait for a person. Raises InvalidJob for one that asks for others: it would
    match nothing, or what nobody should touch."""
    query = parse_filter(text)
    if query.state not in (None, JobState.QUARANTINED):
        raise _not_quarantined(f"state is {query.state.value if query.state else ''}")
    if query.reason is not None and query.reason not in FOR_A_PERSON:
        raise _not_quarantined(f"jobs held as {query.reason.value} flow again by themselves")
    return replace(query, state=None)


def _not_quarantined(what: str) -> InvalidJob:
    allowed = ", ".join(reason.value for reason in FOR_A_PERSON)
    rule = f"must be about quarantined jobs ({allowed}): {what}"
    return InvalidJob([FieldViolation("filter", rule)], reason="INVALID_FILTER")


def _refuse(wrong: list[FieldViolation]) -> None:
    if wrong:
        raise InvalidJob(wrong)
