"""A client of a fake server, for the tests that `conftest` gives these fixtures to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from jobkit import JobClient
from tests.unit.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[JobClient]:
    async with JobClient(server.target, timeout=5) as opened:
        yield opened
