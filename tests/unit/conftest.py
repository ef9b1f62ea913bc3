"""Fixtures that several files share."""

from tests.unit.client_kit import client, server  # noqa: F401 - fixtures
from tests.unit.executor_kit import release  # noqa: F401 - a fixture
