"""Health that tells the truth, dependency by dependency."""

from __future__ import annotations

import asyncio
import logging

import pytest

from jobkit.runtime.health import Check, Health, NotYet


class Dependency:
    """Up until told otherwise."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False

    async def __call__(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


class Stage:
    """A component with a required dependency and one that it can do without."""

    def __init__(self) -> None:
        self.database, self.redis = Dependency(), Dependency()
        self.told: list[bool] = []
        checks = [
            Check("database", self.database, required=True),
            Check("redis", self.redis, required=False),
        ]
        self.health = Health("worker", checks, changed=self._changed, timeout=0.05)

    async def _changed(self, ok: bool) -> None:
        self.told.append(ok)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nothing_is_up_before_it_was_asked(stage: Stage) -> None:
    assert not stage.health.ok
    assert stage.health.info == {"worker": False, "database": "not asked yet", "redis": "not asked yet"}


async def test_all_up(stage: Stage) -> None:
    await stage.health.check()
    assert stage.health.ok
    assert stage.health.info == {"worker": True, "database": True, "redis": True}
    assert stage.told == [True]


async def test_a_required_dependency_takes_the_component_down_and_up_again(stage: Stage) -> None:
    await stage.health.check()
    stage.database.error = OSError("refused")
    await stage.health.check()
    await stage.health.check()
    assert stage.health.info == {"worker": False, "database": "refused", "redis": True}
    stage.database.error = None
    await stage.health.check()
    assert stage.health.ok
    assert stage.told == [True, False, True]


async def test_another_one_is_only_shown(stage: Stage) -> None:
    stage.redis.error = ConnectionError()
    await stage.health.check()
    assert stage.health.ok
    assert stage.health.info["redis"] == "ConnectionError"
    assert stage.told == [True]


async def test_one_that_hangs_is_down_after_the_timeout(stage: Stage) -> None:
    stage.database.hangs = True
    await stage.health.check()
    assert stage.health.info["database"] == "TimeoutError"
    assert stage.health.info["redis"] is True


async def test_draining_is_not_ready_whatever_the_dependencies_say(stage: Stage) -> None:
    await stage.health.check()
    await stage.health.drain()
    await stage.health.check()
    assert stage.health.info["worker"] == "draining"
    assert stage.health.info["database"] is True
    assert stage.told == [True, False]
    await stage.health.drain()
    assert stage.told == [True, False]


async def test_the_log_has_what_lies_at_the_bottom_and_the_page_has_not(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.database.error = RuntimeError("database is unavailable")
    stage.database.error.__cause__ = OSError("no database 'jobs' on db.example")
    with caplog.at_level(logging.INFO, "jobkit.runtime.health"):
        await stage.health.check()
    assert caplog.messages == [
        "worker: database is down: database is unavailable (no database 'jobs' on db.example)"
    ]
    assert stage.health.info["database"] == "database is unavailable"


async def test_what_nobody_has_tried_is_not_up_and_no_news(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "jobkit.runtime.health"):
        stage.database.error = NotYet()
        await stage.health.check()
        await stage.health.check()
        assert stage.health.info["database"] == "not asked yet"
        assert caplog.messages == []
        for error in (OSError("refused"), None):
            stage.database.error = error
            await stage.health.check()
    assert caplog.messages == ["worker: database is down: refused", "worker: database is up again"]


async def test_ups_and_downs_are_logged_once_each(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jobkit.runtime.health"):
        for error in (None, OSError("refused"), OSError("refused"), None, None):
            stage.database.error = error
            await stage.health.check()
    assert [record.getMessage() for record in caplog.records] == [
        "worker: database is down: refused",
        "worker: database is up again",
    ]
