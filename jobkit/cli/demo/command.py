"""The command `selfheal demo`: its options, its display, its exit code."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import aiohttp
import uvloop
from rich.console import Console
from rich.live import Live

from jobkit.cli.demo.bank import Bank
from jobkit.cli.demo.plain import PlainTeller, plain_summary
from jobkit.cli.demo.screen import ScreenTeller, screen_summary
from jobkit.cli.demo.story import CAPACITY, Script, Story, StoryFailed, Teller
from jobkit.cli.demo.system import Addresses, running
from jobkit.cli.demo.verdict import Verdict, judge
from jobkit.cli.demo.view import Failures, Looker
from jobkit.client import JobClient, JobClientError
from jobkit.client.calls import open_channel
from jobkit.domain.errors import SelfhealError
from jobkit.runtime import logs
from jobkit.runtime.lifecycle import StopSignal

INTERRUPTED = 130
SLOWEST, FASTEST = 0.25, 10.0


def main(argv: list[str] | None = None) -> int:
    """0 when all of it happened as told, 1 when something did not, 2 for bad options, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="selfheal demo",
        description="An outage and how the system heals, live in this terminal, in about two minutes. Everything is "
        "real and runs in this process: it needs no server and no network, and leaves nothing behind.",
    )
    parser.add_argument(
        "--speed", type=_speed, default=1.0, help="how much faster than two minutes (default: 1)"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a screen; by itself in a pipe")
    options = parser.parse_args(argv)
    logs.configure("demo", "ERROR", "console")
    console = Console(highlight=False)
    plain = options.plain or not fits(console)
    return uvloop.run(_until_stopped(Script(options.speed), console, plain))


def fits(console: Console) -> bool:
    """Whether this is a terminal on which the screen can be drawn."""
    drawable = console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only
    return drawable and console.width >= 80 and console.height >= 20


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not SLOWEST <= speed <= FASTEST:
        raise argparse.ArgumentTypeError(f"must be a number from {SLOWEST:g} to {FASTEST:g}, not {text!r}")
    return speed


async def _until_stopped(script: Script, console: Console, plain: bool) -> int:
    stop = StopSignal()
    stop.install()
    telling = asyncio.create_task(_tell(script, console, plain))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([telling, stopped], return_when=asyncio.FIRST_COMPLETED)
    finished = telling.done()
    for task in (telling, stopped):
        task.cancel()
    outcome, _ = await asyncio.gather(telling, stopped, return_exceptions=True)
    if not finished:
        console.print("\nstopped. Nothing of it is left behind.", markup=False)
        return INTERRUPTED
    if isinstance(outcome, BaseException):
        if isinstance(outcome, StoryFailed | JobClientError | SelfhealError | OSError | Failures):
            print(f"selfheal demo: {outcome}", file=sys.stderr)  # noqa: T201 - a command's last word
            return 1
        raise outcome
    return _close(outcome, console, plain)


async def _tell(script: Script, console: Console, plain: bool) -> Verdict:
    async with AsyncExitStack() as stack:
        bank = Bank(CAPACITY)
        await bank.start()
        stack.push_async_callback(bank.stop)
        console.print(
            "starting the job API, the control plane and a worker in this process ...", markup=False
        )
        where = await stack.enter_async_context(running(script.speed, script.cooldown))
        client = await stack.enter_async_context(JobClient(where.api))
        control = await stack.enter_async_context(open_channel(where.control))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        looker = Looker(control, http, where.metrics)
        with _teller(script, console, plain, (bank, where)) as teller:
            story = Story(script, bank, client, looker, teller)
            await story.run()
        return await judge(control, client, bank, story.through_outage)


@contextmanager
def _teller(script: Script, console: Console, plain: bool, told: tuple[Bank, Addresses]) -> Iterator[Teller]:
    bank, where = told
    clock = asyncio.get_running_loop().time
    interval = 1 / script.speed
    if plain:
        # A reader of a pipe wants to see it as it happens.
        yield PlainTeller(lambda line: print(line, flush=True), clock, bank, 5 * interval)  # noqa: T201
        return
    hint = f"all of it is real: try  selfheal --control {where.control} breaker list   (Ctrl-C leaves)"
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield ScreenTeller(lambda picture: live.update(picture, refresh=True), clock, bank, hint, interval)


def _close(verdict: Verdict, console: Console, plain: bool) -> int:
    """The closing summary; the exit code."""
    if plain:
        print("\n".join(["", *plain_summary(verdict)]))  # noqa: T201
    else:
        console.print(screen_summary(verdict))
    for objection in verdict.objections:
        print(f"selfheal demo: {objection}", file=sys.stderr)  # noqa: T201
    if not verdict.objections:
        console.print("\nNow with jobs of your own: selfheal dev --handlers YOUR_MODULE", markup=False)
    return 1 if verdict.objections else 0
