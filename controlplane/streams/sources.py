"""The kinds of resources that this release pushes. A further kind is one more `Source` in `sources_of`, whose
messages a worker knows how to apply."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from controlplane.streams.pusher import Source
from jobkit.domain.errors import Unavailable
from jobkit.host.world import World
from jobkit.ports.revisions import FAULTS, JOB_TYPES, LEDGER, POLICIES
from jobkit.rpc.breakers import snapshot_to_wire
from jobkit.rpc.catalog import type_to_wire
from jobkit.rpc.faults import fault_to_wire
from jobkit.rpc.policies import policy_to_wire


def sources_of(world: World) -> list[Source]:
    """By name: breakers as the ledger has them, the catalog of job types with pauses and limits, policies, and faults
    that go on."""

    async def breakers() -> Sequence[Message]:
        told = await world.ledger.latest()
        now = await _store_now(world)
        return [snapshot_to_wire(record, now) for _, record in sorted(told.items())]

    async def job_types() -> Sequence[Message]:
        return [type_to_wire(info) for _, info in sorted((await world.types.all()).items())]

    async def faults() -> Sequence[Message]:
        return [fault_to_wire(fault) for fault in await world.faults.active()]

    async def policies() -> Sequence[Message]:
        return [policy_to_wire(stored) for stored in await world.policies.list()]

    return [
        Source("breakers", LEDGER, breakers),
        Source("job_types", JOB_TYPES, job_types),
        Source("faults", FAULTS, faults),
        Source("policies", POLICIES, policies),
    ]


async def _store_now(world: World) -> int:
    """The breaker store's time; the database's where it is away, which is when workers need the push most."""
    try:
        return await world.breakers.now()
    except Unavailable:
        return await world.database.now()
