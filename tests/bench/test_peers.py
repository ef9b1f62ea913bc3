"""Contenders in turn, on the same servers, round after round (`-k peers`, `--only celery,dramatiq`)."""

from __future__ import annotations

import pytest

from tests.bench.peers.arena import EVERYBODY, Arena
from tests.bench.peers.environments import NotInstalled

pytestmark = pytest.mark.timeout(3600)


def test_peers(arena: Arena, chosen: frozenset[str]) -> None:
    """Who is not to be had is left out; who fails has no more turns, and fails the run in the end."""
    failed: dict[str, str] = {}
    for number in range(arena.sizes.rounds):
        for who in EVERYBODY:
            if (
                who.name in failed
                or who.name in arena.scores.absent
                or (chosen and who.name.lower() not in chosen)
            ):
                continue
            print(f"round {number + 1} of {arena.sizes.rounds}: {who.name}", flush=True)
            try:
                arena.turn(who, number)
            except NotInstalled as error:
                arena.scores.absent[who.name] = str(error)
            except (AssertionError, OSError, TimeoutError) as error:
                failed[who.name] = str(error)
    assert not failed, "\n\n".join(f"{name}: {why}" for name, why in failed.items())
