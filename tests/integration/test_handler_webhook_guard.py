"""Addresses that `webhook` must not reach."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from jobkit.handling import Permanent
from tests.integration.webhook_kit import (
    Receiver,
    Send,
    sending,
)
from worker.handlers.guard import AddressRefused, AllowList, GuardedResolver, is_public
from worker.handlers.webhook import Webhook, WebhookSettings

# -- what it must not reach ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "[::1]", "0.0.0.0", "[::]", "10.0.0.1", "172.16.5.4", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255", "2130706433", "127.1", "0x7f.1",
        "0x7f000001", "017700000001", "0177.0.0.1",
    ],
)  # fmt: skip
async def test_private_addresses_are_refused_however_they_are_written(guarded: Send, host: str) -> None:
    with pytest.raises(Permanent) as refused:
        await guarded(f"http://{host}:9/")
    assert refused.value.code in {"ADDRESS_REFUSED", "VALIDATION_ERROR"}


async def test_a_refusal_tells_no_address(receiver: Receiver, guarded: Send) -> None:
    with pytest.raises(Permanent) as refused:
        await guarded(f"http://localhost:{receiver.port}/")
    assert refused.value.message == "payload.url does not resolve to a public address"
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("allow", "reached"),
    [
        ("localhost", True),
        ("LocalHost:{port}", True),
        ("127.0.0.0/8", True),
        ("127.0.0.1", True),
        ("localhost:1", False),
        ("127.0.0.1:{port}", False),  # allowed by that name, and the job uses another
        ("10.0.0.0/8", False),
    ],
)
async def test_what_is_allowed_can_be_reached(receiver: Receiver, allow: str, reached: bool) -> None:
    settings = WebhookSettings(allow=(allow.format(port=receiver.port), "::1"))
    async for send in sending(settings):
        url = f"http://localhost:{receiver.port}/"
        if reached:
            assert (await send(url))["status"] == 200
        else:
            with pytest.raises((Permanent, aiohttp.ClientConnectionError)):
                await send(url)
    assert len(receiver.requests) == int(reached)


async def test_an_address_and_port_can_be_allowed(receiver: Receiver) -> None:
    async for send in sending(WebhookSettings(allow=(f"127.0.0.1:{receiver.port}",))):
        assert (await send(receiver.url()))["status"] == 200
        with pytest.raises(Permanent):
            await send(f"http://127.0.0.1:{receiver.port + 1}/")


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "host:port", "host:0", ":80"])
def test_an_allow_list_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=entry.replace("/", ".")):
        Webhook(WebhookSettings(allow=(entry,)))


class Names(AbstractResolver):
    """A name service whose every next answer is the next of `answers`."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.answers.pop(0)
        ]

    async def close(self) -> None: ...


async def test_a_name_that_changes_its_mind_is_checked_each_time() -> None:
    guard = GuardedResolver(
        AllowList(), Names(["93.184.215.14"], ["127.0.0.1"], ["10.0.0.1", "93.184.215.14"])
    )
    assert [found["host"] for found in await guard.resolve("rebind.example", 80)] == ["93.184.215.14"]
    with pytest.raises(AddressRefused):
        await guard.resolve("rebind.example", 80)
    assert [found["host"] for found in await guard.resolve("rebind.example", 80)] == ["93.184.215.14"]


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))
