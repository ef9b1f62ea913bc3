"""Load with random faults for as long as asked: `make soak ARGS="--minutes 10 --json"`.

Starts RabbitMQ, Redis and PostgreSQL of its own, one job API, two workers and one control plane on them, submits jobs
all the while, and strikes one fault after another. Then it looks at every job that was answered "accepted". Exits
with 1 when one is lost, stuck, or ran against the rules.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.harm import FAULTS, Harm, room_of
from tests.faults.kit import (
    Figures,
    Kept,
    Load,
    Servers,
    Supervisor,
    everything_done,
    make_fleet,
    query,
    running_servers,
)
from tests.faults.memory import Memory
from tests.faults.record import write_record
from tests.servers import NotAvailable
from tests.system.fleet import Fleet, Ports

WORKERS = 2
ENVIRON = {"DATABASE_TIMEOUT": "1.5", "JOB_LEASE": "2", "LOST_AFTER": "5", "LOG_LEVEL": "WARNING"}
SAY_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` of load at `rate` jobs a second; `pause` in seconds between faults."""

    seconds: float
    rate: float = 300.0
    pause: tuple[float, float] = (3.0, 9.0)
    seed: int = 0
    drain_seconds: float = 300.0


@dataclass(slots=True)
class Report:
    """What came of it. `problems` is empty when all is well."""

    options: Options
    figures: Figures
    faults: dict[str, int]
    memory: dict[str, dict[str, float]]
    problems: str = ""
    ended: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))

    @property
    def json(self) -> dict[str, Any]:
        told = {
            **asdict(self.figures),
            "duplicates": self.figures.reruns,
            "lost": self.problems.count("LOST"),
        }
        rest = {"faults": self.faults, "faults_struck": sum(self.faults.values()), "memory": self.memory}
        return {**told, **rest, **asdict(self.options), "problems": self.problems, "ended": self.ended}


async def soak(servers: Servers, directory: Path, options: Options) -> Report:
    """One run on servers that it may harm; they run again when it returns."""
    fleet = make_fleet(directory, await asyncio.to_thread(servers.room), **ENVIRON)
    memory = Memory()
    async with Supervisor(fleet) as supervisor:
        kept = {
            "controlplane": [supervisor.keep("controlplane")],
            "jobapi": [supervisor.keep("jobapi")],
            "worker": [supervisor.keep("worker", ports=ports) for ports in _ports(fleet)],
        }
        await supervisor.ready()
        watching = asyncio.create_task(memory.watch(one for many in kept.values() for one in many))
        harm = Harm(servers, *room_of(fleet.environ), kept, random.Random(options.seed))
        figures, problems = Figures(), ""
        try:
            async with Load(fleet, rate=options.rate) as load:
                await _strike(harm, load, options)
                await _all_back(servers, supervisor, kept)
                try:
                    figures = await everything_done(load, timeout=options.drain_seconds, allow_overlap=True)
                    figures.slowest_seconds = await _slowest(harm.database_url)
                except AssertionError as wrong:
                    problems = str(wrong)
                    figures.accepted = len(load.accepted)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return Report(options, figures, dict(sorted(harm.struck.items())), memory.report(), problems)


async def _slowest(url: str) -> float:
    """Seconds from submit to finish, but for the jobs that were held by hand to the end of the load."""
    slowest = "SELECT max(finished_at - created_at) FROM jobs WHERE job_type NOT LIKE '%.held'"
    ((milliseconds,),) = await query(url, slowest)
    return float(milliseconds or 0) / 1000


def _ports(fleet: Fleet) -> list[Ports]:
    return [fleet.ports, *(Ports() for _ in range(WORKERS - 1))]


async def _strike(harm: Harm, load: Load, options: Options) -> None:
    """Fault after fault, each kind once before any comes again."""
    until, said, bag = time.monotonic() + options.seconds, 0.0, list[str]()
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(harm.dice.uniform(*options.pause), left))
        if time.monotonic() >= until:
            return
        if not bag:
            bag = list(FAULTS)
            harm.dice.shuffle(bag)
        await harm.strike(bag.pop())
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            print(f"{max(until - said, 0):5.0f} s left, {len(load.accepted)} accepted", file=sys.stderr)


async def _all_back(servers: Servers, supervisor: Supervisor, kept: dict[str, list[Kept]]) -> None:
    for server in servers.all:
        server.resume()
        await asyncio.to_thread(server.start)
    for one in (one for many in kept.values() for one in many):
        one.thaw()
    await supervisor.ready(timeout=60)


def told(report: Report) -> str:
    """The report for people; also what docs/operations.md keeps."""
    figures, options = report.figures, report.options
    faults = ", ".join(f"{name} {times} times" for name, times in report.faults.items())
    lines = [
        f"{options.seconds / 60:g} minutes at {options.rate:g} jobs/s with {sum(report.faults.values())} faults "
        f"(seed {options.seed}), ended {report.ended}",
        "",
        "| | |",
        "|---|---|",
        f"| accepted | {figures.accepted} |",
        f"| done | {figures.done} |",
        f"| lost | {report.json['lost']} |",
        f"| duplicates (started more often than their attempts say) | {figures.reruns} |",
        f"| of these succeeded more than once | {figures.repeated_successes} |",
        f"| slowest from submit to finish, but for those held by hand | {figures.slowest_seconds:.1f} s |",
        f"| drained after the last submit in | {figures.seconds_to_drain:.1f} s |",
        f"| refused | {', '.join(f'{code} {n}' for code, n in figures.refusals.items()) or 'none'} |",
    ]
    for component, size in report.memory.items():
        lines.append(
            f"| memory of {component} ({size['processes']:g} processes) | at most {size['max_mb']:g} MB; "
            f"the longest-lived {size['warm_mb']:g} → {size['end_mb']:g} MB in {size['seconds']:g} s |"
        )
    return "\n".join([*lines, "", f"Faults: {faults}."])


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak ARGS=…", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to submit and strike")
    parser.add_argument("--rate", type=float, default=300.0, help="jobs a second")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of the order of faults")
    parser.add_argument("--json", action="store_true", help="the counts, for programs")
    parser.add_argument("--record", action="store_true", help="write the report into docs/operations.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    chosen = _options(arguments)
    options = Options(chosen.minutes * 60, chosen.rate, seed=chosen.seed)
    directory = Path(tempfile.mkdtemp(prefix="selfheal-soak-"))
    try:
        with running_servers() as servers:
            report = asyncio.run(soak(servers, directory, options))
    except NotAvailable as missing:
        print(f"soak: {missing}", file=sys.stderr)
        return 2
    print(json.dumps(report.json, indent=1) if chosen.json else told(report))
    if report.problems:
        print(f"{report.problems}\nlogs and tally: {directory}", file=sys.stderr)
        return 1
    if chosen.record:
        write_record(told(report))
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
