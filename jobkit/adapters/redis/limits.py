"""Slots and retry budgets of the whole fleet, in Redis."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from datetime import timedelta
from typing import Any

import orjson

from jobkit.adapters.embedded.limits import PLANNING_MS, SUMS, epoch_of, sums_of
from jobkit.adapters.redis.key import LimitKeys
from jobkit.adapters.redis.link import SECOND, Command, RedisLink
from jobkit.adapters.redis.script import Script
from jobkit.domain import budget
from jobkit.domain.errors import store_unavailable
from jobkit.domain.limit import EPOCH_MS, LEASE_MS, LaneReport, Material, Member, Plan, Share
from jobkit.domain.pace import Pace
from jobkit.ports import Grant

_log = logging.getLogger(__name__)

# What nobody reports about is forgotten: a recovery that has ended is remembered as such until then.
IDLE_MS = 86_400_000


class RedisLimitStore:
    """`ports.LimitStore`; its clock is the server's. One hash a type, so that a script may touch it in a cluster."""

    def __init__(
        self, url: str, namespace: str, timeout: timedelta = SECOND, connect_timeout: timedelta = SECOND
    ) -> None:
        self._namespace = namespace
        self._link = RedisLink(url, timeout, connect_timeout)
        self._lease, self._plan, self._budget = (Script.load(n) for n in ("lease", "plan", "budget"))

    async def report(self, worker: str, reports: Mapping[str, LaneReport]) -> dict[str, Grant]:
        calls = [([self._keys(name).slots], _report_args(worker, one)) for name, one in reports.items()]
        answers = await self._each(self._lease, calls)
        return {name: _grant(answer) for name, answer in zip(reports, answers, strict=True)}

    async def plan(self, plans: Mapping[str, tuple[Plan, Mapping[str, Share], Material]]) -> None:
        calls = [([self._keys(name).slots], _plan_args(*one)) for name, one in plans.items()]
        await self._each(self._plan, calls)

    async def spend(self, statements: Mapping[str, budget.Statement]) -> dict[str, budget.Account]:
        calls = [([self._keys(name).budget], _statement_args(one)) for name, one in statements.items()]
        answers = await self._each(self._budget, calls)
        return {
            name: budget.Account(int(block), float(debt), float(income))
            for name, (block, debt, income) in zip(statements, answers, strict=True)
        }

    async def close(self) -> None:
        await self._link.close()

    def _keys(self, name: str) -> LimitKeys:
        return LimitKeys.of(self._namespace, name)

    async def _each(self, script: Script, calls: Sequence[tuple[Sequence[str], Command]]) -> list[Any]:
        answers = await self._link.each(script, calls) if calls else []
        for answer in answers:
            if isinstance(answer, Exception):
                _log.error("a script failed in Redis: %s", answer)
                raise store_unavailable("redis") from answer
        return answers


def _report_args(worker: str, report: LaneReport) -> Command:
    return (
        worker,
        report.in_use,
        report.most,
        report.revision,
        report.generation,
        int(report.leaving),
        EPOCH_MS,
        LEASE_MS,
        PLANNING_MS,
        IDLE_MS,
        *sums_of(report),
    )


def _grant(answer: Sequence[Any]) -> Grant:
    if not answer:
        return Grant(None)
    share = Share(int(answer[0]), float(answer[1]) if answer[1] else None)
    if len(answer) == 2:
        return Grant(share)
    fields = dict(zip(answer[3][::2], answer[3][1::2], strict=True))
    members = tuple(
        Member(name[2:], *(int(part) for part in value.split(" ")))
        for name, value in fields.items()
        if name.startswith("m|")
    )
    sums = tuple(int(fields.get(name, 0)) for name in SUMS)
    epoch = epoch_of(sums, len(members))
    return Grant(share, Material(_plan_of(fields), members, epoch, int(answer[2]), sums))


def _plan_of(fields: Mapping[str, str]) -> Plan:
    pace = fields.get("pace")
    return Plan(
        number=int(fields.get("number", 0)),
        limit=_maybe(fields.get("limit")),
        operators=_maybe(fields.get("operators")),
        revision=int(fields.get("revision", 0)),
        pace=_pace_of(orjson.loads(pace)) if pace else None,
    )


def _pace_of(found: dict[str, Any]) -> Pace:
    """What another release wrote may have fields that are not ours: they are left out, and the pace goes on."""
    known = {field.name: found[field.name] for field in fields_of(Pace) if field.name in found}
    trial = known.get("trial")
    return Pace(**known | {"trial": None if trial is None else (trial[0], trial[1])})


def _plan_args(plan: Plan, shares: Mapping[str, Share], material: Material) -> Command:
    args: list[str | int] = [
        material.plan.number,
        plan.number,
        "" if plan.limit is None else plan.limit,
        "" if plan.operators is None else plan.operators,
        plan.revision,
        plan.pace.generation if plan.pace else 0,
        orjson.dumps(plan.pace).decode() if plan.pace else "",
        *material.sums,
    ]
    for worker, share in shares.items():
        args += (worker, f"{share.slots} {'' if share.rate is None else share.rate}")
    return args


def _statement_args(statement: budget.Statement) -> Command:
    return (
        statement.firsts,
        statement.owed,
        statement.wanted,
        str(budget.SHARE),
        str(budget.PER_SECOND),
        str(budget.MOST),
        str(budget.DEEPEST),
        IDLE_MS,
    )


def _maybe(value: str | None) -> int | None:
    return int(value) if value else None
