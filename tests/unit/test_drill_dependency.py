"""The simulated dependency of the drills does what it is told."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from tests.drills.dependency import Dependency, Refused, Weather, bad, good, serve

QUICK = Weather(latency=0.001)


async def tries(dependency: Dependency, count: int) -> list[str]:
    """The codes of so many calls at once."""

    async def one() -> str:
        try:
            await dependency.call()
        except Refused as refusal:
            return refusal.code
        return ""

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def test_a_bucket_serves_its_capacity_and_turns_the_rest_away() -> None:
    dependency = Dependency(QUICK, capacity=20, burst=3)
    codes = await tries(dependency, 10)
    assert codes.count("") == 3
    assert codes.count("OVERLOADED") == 7
    await asyncio.sleep(0.11)
    assert (await tries(dependency, 10)).count("") >= 2
    assert len(good(dependency.calls)) + len(bad(dependency.calls)) == 20


async def test_places_make_others_wait_and_turn_nobody_away() -> None:
    dependency = Dependency(Weather(latency=0.02), places=2)
    began = time.monotonic()
    assert await tries(dependency, 6) == [""] * 6
    assert time.monotonic() - began >= 0.06


async def test_down_it_fails_at_once_and_for_one_worker_alone_if_told_so() -> None:
    dependency = Dependency(Weather(down=True, fails_in=0.001))
    assert await tries(dependency, 2) == ["DOWN"] * 2
    dependency.weather = QUICK
    dependency.faulty_for = {"w0"}
    with pytest.raises(Refused, match="FAULTY"):
        await dependency.call("w0")
    await dependency.call("w1")


async def test_a_brown_out_fails_its_share() -> None:
    dependency = Dependency(Weather(latency=0, error_rate=0.3))
    assert 60 < (await tries(dependency, 300)).count("FAULTY") < 120


async def test_a_hang_lasts_until_the_caller_gives_up() -> None:
    dependency = Dependency(Weather(hangs=True))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await dependency.call("w0", "job")
    assert [call.code for call in dependency.calls] == ["ABANDONED"]
    assert dependency.in_flight == 0
    assert dependency.in_flight_at(dependency.calls[0].began) == 1


async def test_too_much_knocks_it_over() -> None:
    dependency = Dependency(QUICK, collapses_at=10)
    codes = await tries(dependency, 12)
    assert codes.count("") == 10
    assert dependency.collapses == 1
    assert await tries(dependency, 1) == ["DOWN"]


async def test_over_http_it_is_the_same() -> None:
    dependency = Dependency(QUICK)
    async with serve(dependency) as url, aiohttp.ClientSession() as client:
        async with client.post(url, params={"who": "w0", "key": "k"}) as answer:
            assert answer.status == 200
        dependency.weather = Weather(down=True)
        async with client.post(url) as answer:
            assert (answer.status, await answer.text()) == (503, "DOWN")
    assert [(call.who, call.key, call.code) for call in dependency.calls] == [
        ("w0", "k", ""),
        ("", "", "DOWN"),
    ]
