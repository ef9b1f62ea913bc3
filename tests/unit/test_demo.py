"""What the demo says about itself: nothing is called healed that was not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from selfheal.control.v1 import breaker_pb2, incident_pb2

from jobkit.cli.demo.bank import BUSY, TAKEN, Bank
from jobkit.cli.demo.bars import bar, sparkline
from jobkit.cli.demo.figures import cooldown
from jobkit.cli.demo.screen import Line, ScreenTeller, Told, screen_summary
from jobkit.cli.demo.verdict import Calls, Count, Verdict
from jobkit.cli.demo.view import Flow, View

INCIDENT = incident_pb2.Incident(
    incident_id="1",
    close_time=Timestamp(seconds=60),
    time_to_detect=Duration(seconds=1),
    time_to_recover=Duration(seconds=40),
    jobs_held=700,
    attempts_saved=900,
    calls_avoided=898,
    probes=2,
    reopened=1,
)
# Ten failed before it opened, one probe failed and was refunded, the other attempts were good.
HEALED = Verdict(
    incidents=(INCIDENT,),
    payments=Count(jobs=1000, succeeded=1000, attempts=1010, most_attempts=2),
    thumbnails=Count(jobs=1000, succeeded=1000, attempts=1000, most_attempts=1),
    calls=Calls(calls=1011, hung_up=11, busy=0),
    through_outage=300,
)


def test_a_story_that_happened_has_no_objections() -> None:
    assert (HEALED.burned, HEALED.objections) == (0, ())


@pytest.mark.parametrize(
    ("verdict", "objection"),
    [
        (replace(HEALED, incidents=()), "never opened"),
        (replace(HEALED, incidents=(INCIDENT, INCIDENT)), "opened 2 times"),
        (replace(HEALED, incidents=(incident_pb2.Incident(jobs_held=1, reopened=1),)), "never closed"),
        (replace(HEALED, payments=replace(HEALED.payments, attempts=1013)), "cost 3 attempts"),
        (replace(HEALED, payments=replace(HEALED.payments, succeeded=998)), "998 of 1000 payments"),
        (replace(HEALED, thumbnails=replace(HEALED.thumbnails, attempts=1001)), "thumbnails suffered"),
        (replace(HEALED, through_outage=0), "thumbnails suffered"),
    ],
)
def test_a_story_that_did_not_happen_is_not_told(verdict: Verdict, objection: str) -> None:
    assert objection in " / ".join(verdict.objections)


def test_bars_and_sparklines_stay_within_their_width() -> None:
    assert sparkline([0, 0.1, 30, 60, 90], 8, 60) == "    ▁▄██"
    assert sparkline(list(range(100)), 5, 99) == "█" * 5
    assert (bar(0, 4), bar(0.5, 4), bar(7, 4)) == ("░░░░", "██░░", "████")


def _breaker() -> breaker_pb2.Breaker:
    move = breaker_pb2.BreakerTransition(
        to_state=breaker_pb2.BREAKER_STATE_OPEN, transition_time=Timestamp(seconds=1_000)
    )
    return breaker_pb2.Breaker(
        breaker="payment",
        state=breaker_pb2.BREAKER_STATE_OPEN,
        open_until=Timestamp(seconds=1_020),
        transitions=[move],
    )


def test_the_cooldown_counts_down_to_nothing() -> None:
    assert cooldown(_breaker(), 1_005) == (15, 20)
    assert cooldown(_breaker(), 1_060) == (0, 20)
    assert cooldown(breaker_pb2.Breaker(state=breaker_pb2.BREAKER_STATE_CLOSED), 0) is None


def test_the_screen_shows_the_breaker_and_what_is_held() -> None:
    drawn: list[RenderableType] = []
    clock = iter(range(100))
    teller = ScreenTeller(drawn.append, lambda: float(next(clock)), Bank(60), "a hint", 1.0)
    teller.begin(2)
    for at, done in ((1.0, 10), (2.0, 30)):
        flows = {"payment": Flow(41, 41, 0, 10), "thumbnail": Flow(done=done)}
        teller.show(View(at, at, _breaker(), flows))
    teller.say("payments are held")
    console = Console(width=100, height=28, record=True, file=None, force_terminal=False, quiet=False)
    with console.capture() as shown:
        console.print(drawn[-1])
    text = shown.get()
    for part in (
        "OPEN",
        "jobs are held",
        "held 41",
        "20.0/s",
        "payments are held",
        "a hint",
        "next probe in",
    ):
        assert part in text
    with console.capture() as shown:
        console.print(screen_summary(HEALED))
    assert "healed by itself" in shown.get()


def test_what_is_said_is_shown_whole_on_a_narrow_terminal() -> None:
    words = " ".join(f"word{number}" for number in range(30))
    console = Console(width=80, height=12)
    with console.capture() as shown:
        console.print(Told((Line(1.0, "long ago", ""), Line(12.5, words, "note"))), height=12)
    text = shown.get()
    assert "12.5 s  word0" in text
    assert [word for word in text.split() if word.startswith("word")] == words.split()


async def test_the_bank_takes_what_it_can_and_hangs_up_when_it_is_down() -> None:
    bank = Bank(8)  # room for two at once
    await bank.start()

    async def pay() -> bytes:
        host, _, port = bank.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"PAY\n")
            return await reader.readline()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    try:
        assert [await pay() for _ in range(3)].count(TAKEN) >= 2
        assert BUSY in await asyncio.gather(*(pay() for _ in range(5)))
        bank.up = False
        assert await pay() == b""
        assert bank.hung_up == 1
    finally:
        await bank.stop()
