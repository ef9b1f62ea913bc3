"""jobapi's idea of job types: a flood of invented names neither fills memory nor keeps the database busy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from jobapi import types as job_types
from jobapi.types import Types
from jobkit.adapters.embedded.signals import EmbeddedSignals
from jobkit.domain.errors import Exhausted
from jobkit.ports import Presence, TypeCatalog, TypeInfo

LIMIT = 5


class Catalog:
    """The catalog in memory; it can be slow."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def ensure(self, names: Sequence[str], limit: int) -> list[str]:
        self.asked.append(sorted(names))
        await self.go.wait()
        unfit = []
        for name in sorted(set(names) - self.names):
            if len(self.names) < limit:
                self.names.add(name)
            else:
                unfit.append(name)
        return unfit

    async def all(self) -> dict[str, TypeInfo]:
        return {name: TypeInfo(name) for name in self.names}

    async def served_types(self, within: timedelta) -> set[str]:
        return set()


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def types(catalog: Any) -> Types:
    return Types(
        cast(TypeCatalog, catalog), cast(Presence, catalog), EmbeddedSignals(), LIMIT, timedelta(seconds=60)
    )


async def test_callers_at_once_share_one_question(types: Types, catalog: Catalog) -> None:
    answers = await asyncio.gather(*(types.ensure([f"t{n}", "same"]) for n in range(4)))
    assert answers == [{}] * 4
    assert catalog.asked == [["same"] * 4 + ["t0", "t1", "t2", "t3"]]
    assert await types.ensure(["t0"]) == {}
    assert len(catalog.asked) == 1


async def test_what_does_not_fit_is_named_and_then_not_asked_for_again(
    types: Types, catalog: Catalog
) -> None:
    unfit = await types.ensure([f"t{n}" for n in range(LIMIT + 2)])
    assert sorted(unfit.values()) == [LIMIT, LIMIT]
    asked = len(catalog.asked)
    for n in range(100):
        assert await types.ensure([f"flood{n}", "t0"]) == {f"flood{n}": LIMIT}
    assert len(catalog.asked) == asked
    catalog.names.discard("t0")  # dropped: there is room again
    await types.refresh()
    assert await types.ensure(["later"]) == {}


async def test_too_many_new_types_at_once_are_refused(
    types: Types, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_types, "MAX_ASKING", 2)
    catalog.go.clear()
    waiting = []
    for n in range(3):  # one is asked about, two wait
        waiting.append(asyncio.ensure_future(types.ensure([f"t{n}"])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refused:
        await types.ensure(["more"])
    assert refused.value.reason == "TOO_MANY_REQUESTS"
    catalog.go.set()
    assert await asyncio.gather(*waiting) == [{}] * 3
