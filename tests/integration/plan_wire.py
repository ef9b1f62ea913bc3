"""What the adapter really sends, caught on its way to the driver, and how PostgreSQL would run it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa

from jobkit.adapters.sql.direct import Row
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.hot import Hot


@dataclass(frozen=True, slots=True)
class Sent:
    text: str
    values: tuple[Any, ...]


class Wire:
    """Catches what goes to the driver."""

    def __init__(self, database: Database) -> None:
        self.sent: list[Sent] = []
        self._on = False
        # The reading engine shares the listeners of the writing one.
        sa.event.listen(database._writer.sync_engine, "before_cursor_execute", self._catch)
        assert database._direct is not None
        self._fetch = database._direct.fetch
        database._direct.fetch = self._caught_fetch  # type: ignore[method-assign]

    def _catch(self, _c: Any, _cursor: Any, text: str, values: Any, _context: Any, many: bool) -> None:
        if self._on:
            self.sent.append(Sent(text, tuple(values[0] if many else values)))

    async def _caught_fetch(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Row]:
        if self._on:
            text, arguments = hot.postgresql(values)
            self.sent.append(Sent(text, tuple(arguments)))
        return await self._fetch(hot, values)

    @contextmanager
    def caught(self) -> Iterator[list[Sent]]:
        self.sent.clear()
        self._on = True
        yield self.sent
        self._on = False


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def plans(url: str, sent: Sent, *, generic: bool) -> list[dict[str, Any]]:
    """The nodes of a statement's plan, made for its values or, as after many executions, for any."""
    connection = await asyncpg.connect(url)
    try:
        mode = "force_generic_plan" if generic else "force_custom_plan"
        await connection.execute(f"SET plan_cache_mode = {mode}")
        await connection.execute("SET jit = off")
        statement = await connection.prepare(f"EXPLAIN (FORMAT JSON) {sent.text}")
        answer = await statement.fetchval(*sent.values)
        return list(nodes(json.loads(answer)[0]["Plan"]))
    finally:
        await connection.close()
