"""Jobs that kill their process every time: they end as POISON after a bounded number of losses, and nobody who was
beside them is convicted, held up for good or lost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

from tests.faults.kit import Kept, Load, Run, Supervisor, everything_done, keep_all, query, tally_of, until
from tests.system.client import Client
from tests.system.fleet import Fleet, Ports

RATE = 100.0
# Of all kinds, and of the poison's own: with `times` 0 that handler does no harm.
BYSTANDERS = {"good": 0.5, "flaky": 0.1, "slow": 0.1, "plain": 0.1, "poison": 0.2}
HARMLESS = {"poison": {"times": 0}}
SHARED_LOSSES = 2  # in a row, and the job is a suspect, which runs alone
MAX_LOSSES = 3  # alone, and it is convicted


async def poison_jobs(fleet: Fleet, count: int) -> list[str]:
    """The ids of so many, submitted."""
    async with Client(fleet) as client:
        return [await client.submit(fleet.handled("poison")) for _ in range(count)]


async def convicted(fleet: Fleet) -> dict[str, tuple[str, str, int, int]]:
    """By id: reason, message, attempts and deliveries of all that is quarantined."""
    columns = "job_id, quarantine_reason, error_message, attempts, deliveries"
    url = fleet.environ["DATABASE_URL"]
    rows = await query(url, f"SELECT {columns} FROM jobs WHERE state = 'QUARANTINED'")
    return {str(job_id): (reason, said, attempts, runs) for job_id, reason, said, attempts, runs in rows}


def pairs_of(runs: Mapping[str, Sequence[Run]], killers: Sequence[str]) -> list[tuple[Run, Run]]:
    """Each two runs of a killer that follow each other."""
    return [pair for job_id in killers for pair in pairwise(sorted(runs[job_id], key=lambda run: run.start))]


def others_between(runs: Mapping[str, Sequence[Run]], killers: Sequence[str], first: Run, second: Run) -> int:
    """Runs of bystanders that ended well between the starts of two."""
    others = (run for job_id, of_one in runs.items() if job_id not in killers for run in of_one)
    return sum(run.outcome == "ok" and first.start < (run.end or 0) < second.start for run in others)


def keep_workers(supervisor: Supervisor, count: int) -> list[Kept]:
    """All components, with so many workers."""
    first = keep_all(supervisor)["worker"]
    return [first, *(supervisor.keep("worker", ports=Ports()) for _ in range(count - 1))]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("poison", "workers"),
    [pytest.param(1, 1, id="one", marks=pytest.mark.short), pytest.param(4, 2, id="several")],
)
async def test_poison_is_convicted_and_no_bystander_is(faulty: Fleet, poison: int, workers: int) -> None:
    async with Supervisor(faulty) as supervisor:
        kept = keep_workers(supervisor, workers)
        await supervisor.ready()
        async with Load(faulty, rate=RATE, mix=BYSTANDERS, payloads=HARMLESS) as load:
            await load.reach(100)
            began = time.monotonic()
            killers = await poison_jobs(faulty, poison)

            async def all_convicted() -> bool:
                return (await convicted(faulty)).keys() >= set(killers)

            await until(all_convicted, 150, f"{poison} poison jobs convicted")
            took = time.monotonic() - began
            await supervisor.ready()
            figures = await everything_done(load, timeout=90)
        deaths = [death for one in kept for death in one.deaths]
    runs, sentences = tally_of(load).by_job(), await convicted(faulty)
    starts = {job_id: len(runs[job_id]) for job_id in killers}
    between = [others_between(runs, killers, first, second) for first, second in pairs_of(runs, killers)]
    print(
        f"{poison} poison jobs, {workers} workers: started {list(starts.values())} times, convicted in {took:.0f} s, "
        f"{len(deaths)} workers died; others done between two runs: {between}: {figures}"
    )
    assert sentences.keys() == set(killers)
    for job_id, (reason, said, attempts, deliveries) in sentences.items():
        assert (reason, attempts) == ("POISON", 0)
        assert f"{MAX_LOSSES} times in a row while it ran alone" in said
        assert MAX_LOSSES <= starts[job_id] <= SHARED_LOSSES + MAX_LOSSES
        assert deliveries > starts[job_id], "the last claim is the conviction's"
    assert deaths == [-9] * sum(starts.values()), "nothing else kills a worker"
    assert sum(between) > RATE, "they blocked the others"
