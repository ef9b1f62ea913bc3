"""A stream as it is shown: here, and on the other replicas, which read it as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson


class PushState(StrEnum):
    """How far a push has come."""

    ACKED = "ACKED"
    NACKED = "NACKED"
    PENDING = "PENDING"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is, by its hello; it does not change while the stream lives."""

    worker_id: str
    instance_id: str
    hostname: str
    pid: int
    release: str
    serves: tuple[str, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class TypeFigures:
    """One job type on one worker: attempts running, and ended and failed in its last interval."""

    job_type: str
    in_flight: int
    processed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a heartbeat tells."""

    slots_used: int = 0
    memory: int = 0  # bytes
    draining: bool = False
    types: tuple[TypeFigures, ...] = ()


@dataclass(frozen=True, slots=True)
class KindView:
    """One kind of resources on one worker. `version` was given last, `held` is what it goes by (0: none); `code`
    and `error` say why it refused."""

    kind: str
    version: int
    held: int
    state: PushState
    code: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class StreamView:
    """One worker's stream; times are database milliseconds."""

    identity: Identity
    replica: str
    connected_at: int
    heard_at: int
    figures: Figures
    kinds: tuple[KindView, ...]


def pack(views: Iterable[StreamView]) -> bytes:
    return orjson.dumps(list(views))


def unpack(data: bytes) -> list[StreamView]:
    """Those that can be read: another release may write them otherwise."""
    try:
        found = orjson.loads(data)
    except ValueError:
        return []
    views = (_view(item) for item in found) if isinstance(found, list) else ()
    return [view for view in views if view is not None]


def _view(item: Any) -> StreamView | None:
    try:
        identity = {**item["identity"], "serves": tuple(item["identity"]["serves"])}
        figures = {**item["figures"], "types": tuple(TypeFigures(**one) for one in item["figures"]["types"])}
        kinds = tuple(KindView(**{**one, "state": PushState(one["state"])}) for one in item["kinds"])
        return StreamView(
            identity=Identity(**identity),
            replica=item["replica"],
            connected_at=item["connected_at"],
            heard_at=item["heard_at"],
            figures=Figures(**figures),
            kinds=kinds,
        )
    except (KeyError, TypeError, ValueError):
        return None
