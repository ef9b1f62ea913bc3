"""What operators can ask of breaker policies and do to them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields, replace

from jobkit.domain.asked import check_texts
from jobkit.domain.breaker import BreakerPolicy
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.policy import PolicyOverride, StoredPolicy, check_etag, find_policy_faults
from jobkit.domain.tripping import ANONYMOUS
from jobkit.host.channels import NEWS, POLICIES, REVISIONS
from jobkit.host.world import World

_log = logging.getLogger(__name__)

FIELDS = tuple(f.name for f in fields(PolicyOverride))


class PolicyDesk:
    """The use cases. `base` is what the environment says."""

    def __init__(self, world: World, base: BreakerPolicy) -> None:
        self._world = world
        self._base = base

    async def list(self) -> list[StoredPolicy]:
        """By pattern."""
        return await self._world.policies.list()

    async def get(self, pattern: str) -> tuple[StoredPolicy, PolicyOverride, Sequence[str]]:
        """What is set for exactly this name, what is in force down to what the environment says, and the patterns
        that this comes from. Raises InvalidJob."""
        _check(find_policy_faults(pattern, PolicyOverride()))
        stored = await self._world.policies.get(pattern)
        policies = await self._world.policies.current()
        return (
            stored or StoredPolicy(pattern, PolicyOverride(), 0),
            _as_override(policies.resolve(self._base, pattern)),
            policies.chain(pattern),
        )

    async def update(
        self,
        pattern: str,
        wanted: PolicyOverride,
        mask: Collection[str],
        *,
        etag: str,
        actor: str,
        reason: str,
        validate_only: bool = False,
    ) -> StoredPolicy:
        """Set the fields of `mask` (without one: those that `wanted` has). Raises InvalidJob, Aborted."""
        check_texts(actor, reason)
        unknown = [name for name in mask if name not in FIELDS]
        _check([FieldViolation("update_mask", f"there is no field '{name}'") for name in unknown])
        before = await self._world.policies.get(pattern) or StoredPolicy(pattern, PolicyOverride(), 0)
        changes = {name: getattr(wanted, name) for name in mask} if mask else wanted.settings
        override = replace(before.override, **changes)
        _check(find_policy_faults(pattern, override))
        # What was read is what is written upon: another's change in between is a mismatch too.
        etag = etag or before.etag
        if validate_only:
            check_etag(before, etag)
            return replace(before, override=override)
        stored = await self._world.policies.put(
            pattern, override, etag=etag, actor=actor or ANONYMOUS, reason=reason
        )
        _log.warning("policy of %s changed by %s (%s)", pattern, stored.actor, reason)
        for channel in (REVISIONS, POLICIES):
            await self._world.signals.send(channel, [NEWS])
        return stored


def _as_override(policy: BreakerPolicy) -> PolicyOverride:
    """One that sets everything."""
    return PolicyOverride(**{name: getattr(policy, name) for name in FIELDS})


def _check(faults: Iterable[FieldViolation]) -> None:
    wrong = list(faults)
    if wrong:
        raise InvalidJob(wrong)
