"""Fixtures that several files share."""

from tests.unit.executor_kit import release  # noqa: F401 - a fixture
