"""One conversation with the limit store: report, and when it is our turn to plan, plan and report again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobkit.domain.limit import LaneReport, Share, decide_plan
from jobkit.ports import LimitStore


async def exchange(
    store: LimitStore, worker: str, reports: Mapping[str, LaneReport]
) -> dict[str, Share | None]:
    """This worker's share of each type; None where it has no limit any more. Raises Unavailable."""
    answers = await store.report(worker, reports)
    due = {name: grant.material for name, grant in answers.items() if grant.material is not None}
    if due:
        plans = {name: (*decide_plan(material, reports[name]), material) for name, material in due.items()}
        await store.plan(plans)
        again = {
            name: replace(
                reports[name], started=0, ok=0, failed=0, took_ms=0, span_ms=0, allowed=0, lacked=False
            )
            for name in due
        }
        answers |= await store.report(worker, again)
    return {name: grant.share for name, grant in answers.items()}
