"""Places for the components: embedded, and on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.stage import Place
from tests.integration.webhook_kit import guarded, receiver, send  # noqa: F401 - fixtures
from tests.templates import migrated


@pytest.fixture
def embedded(tmp_path: Path, namespace: str) -> Place:
    """An SQLite file, queues and breakers in memory."""
    path = tmp_path / "selfheal.db"
    path.write_bytes(migrated())
    return Place({"DATABASE_URL": f"sqlite:///{path}"}, namespace)


@pytest.fixture
def real(migrated_postgres_url: str, rabbitmq_url: str, redis_url: str, namespace: str) -> Place:
    """An empty database at our version, an empty vhost, and a key prefix."""
    urls = {"DATABASE_URL": migrated_postgres_url, "RABBITMQ_URL": rabbitmq_url, "REDIS_URL": redis_url}
    return Place({**urls, "SELFHEAL_NAMESPACE": namespace}, namespace)


_REAL = pytest.param("real", marks=[pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis])


@pytest.fixture(params=["embedded", _REAL])
def place(request: pytest.FixtureRequest) -> Place:
    """Both, one after the other. Fetched by name, so that the embedded one needs no server."""
    found: Place = request.getfixturevalue(request.param)
    return found
