"""Both dispatchers keep the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobkit.adapters.embedded.dispatcher import EmbeddedDispatcher
from jobkit.adapters.rabbitmq.dispatcher import RabbitDispatcher
from jobkit.ports import Dispatcher
from tests.contract.dispatcher_contract import DispatcherContract
from tests.contract.drop_contract import DropContract
from tests.contract.intake_contract import IntakeContract


class TestEmbeddedDispatcher(DispatcherContract, IntakeContract, DropContract):
    @pytest.fixture
    async def fresh(self) -> AsyncIterator[Dispatcher]:
        dispatcher = EmbeddedDispatcher()
        assert dispatcher.volatile
        yield dispatcher
        await dispatcher.close()

    @pytest.fixture
    async def dispatcher(self, fresh: Dispatcher) -> Dispatcher:
        await fresh.start()
        return fresh


class TestRabbitDispatcher(DispatcherContract, IntakeContract, DropContract):
    @pytest.fixture
    async def fresh(self, rabbitmq_url: str) -> AsyncIterator[Dispatcher]:
        dispatcher = RabbitDispatcher(rabbitmq_url, name="contract test")
        assert not dispatcher.volatile
        yield dispatcher
        await dispatcher.close()

    @pytest.fixture
    async def dispatcher(self, fresh: Dispatcher) -> Dispatcher:
        await fresh.start()
        return fresh
