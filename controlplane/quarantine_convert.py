"""Redrives and failure groups, between wire and domain."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from selfheal.control.v1 import quarantine_pb2 as wire

from jobkit.domain.failure import group_name, shape_of
from jobkit.domain.redrive import Counts, Redrive, RedriveType
from jobkit.ports import FailureGroup, GroupToken
from jobkit.rpc.convert import from_token, not_our_token, to_timestamp, to_token


def redrive_to_wire(redrive: Redrive) -> wire.Redrive:
    message = wire.Redrive(
        redrive_id=str(redrive.redrive_id),
        filter=redrive.filter,
        rate=redrive.rate,
        adaptive=redrive.rate is None,
        actor=redrive.actor,
        reason=redrive.reason,
        request_id=redrive.request_id,
        state=wire.RedriveState.Value(f"REDRIVE_STATE_{redrive.state.value}"),
        create_time=to_timestamp(redrive.create_time),
        ended_by=redrive.ended_by,
        end_reason=redrive.end_reason,
        progress=_progress(redrive.counts),
        types=[_type(part) for part in redrive.types],
    )
    if redrive.finish_time is not None:
        message.finish_time.CopyFrom(to_timestamp(redrive.finish_time))
    return message


def preview_to_wire(filter_text: str, rate: float | None, matching: Mapping[str, int]) -> wire.Redrive:
    """What a redrive would be about."""
    types = [
        wire.RedriveType(job_type=name, progress=wire.RedriveProgress(total=total))
        for name, total in sorted(matching.items())
    ]
    total = wire.RedriveProgress(total=sum(matching.values()))
    return wire.Redrive(filter=filter_text, rate=rate, adaptive=rate is None, progress=total, types=types)


def _type(part: RedriveType) -> wire.RedriveType:
    return wire.RedriveType(
        job_type=part.job_type,
        progress=_progress(part.counts),
        rate=part.rate,
        held=part.held,
        stop_reason=part.stop_reason,
    )


def _progress(counts: Counts) -> wire.RedriveProgress:
    return wire.RedriveProgress(
        total=counts.total,
        redriven=counts.redriven,
        succeeded=counts.succeeded,
        failed=counts.failed,
        cancelled=counts.cancelled,
        under_way=counts.open,
        skipped=counts.skipped,
    )


def group_to_wire(group: FailureGroup) -> wire.FailureGroup:
    return wire.FailureGroup(
        failure_group=group_name(group.group),
        job_type=group.job_type,
        code=group.code,
        shape=shape_of(group.message),
        sample_message=group.message,
        count=group.count,
        first_time=to_timestamp(group.first_time),
        last_time=to_timestamp(group.last_time),
        sample_job_ids=[str(job_id) for job_id in group.sample_job_ids],
    )


def group_token_to_wire(token: GroupToken | None) -> str:
    return "" if token is None else to_token(token.count.to_bytes(8, "big") + token.group.to_bytes(8, "big"))


def group_token_from_wire(text: str) -> GroupToken | None:
    """Raises InvalidJob for a token that we did not make."""
    raw = from_token(text, 16)
    if raw is None:
        return None
    count, group = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")
    if max(count, group) >= 2**63:
        raise not_our_token()
    return GroupToken(count, group)


def redrive_token_to_wire(before: UUID | None) -> str:
    return "" if before is None else to_token(before.bytes)


def redrive_token_from_wire(text: str) -> UUID | None:
    """Raises InvalidJob for a token that we did not make."""
    raw = from_token(text, 16)
    return None if raw is None else UUID(bytes=raw)
