"""The story as lines, for pipes, logs and CI."""

from __future__ import annotations

from collections.abc import Callable

from jobkit.cli.demo.bank import Bank
from jobkit.cli.demo.story import PHASES
from jobkit.cli.demo.verdict import Verdict, summary
from jobkit.cli.demo.view import View


class PlainTeller:
    """A line for each thing said, and the figures every `interval` seconds."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float], bank: Bank, interval: float
    ) -> None:
        self._write = write
        self._clock = clock
        self._bank = bank
        self._interval = interval
        self._began = clock()
        self._last: View | None = None

    def begin(self, phase: int) -> None:
        self._write(f"\n== {phase + 1}/{len(PHASES)} {PHASES[phase]}")

    def say(self, text: str, tone: str = "") -> None:
        self._write(f"{self._clock() - self._began:6.1f} s  {text}")

    def show(self, view: View) -> None:
        last = self._last
        if last is not None and view.at - last.at < self._interval:
            return
        self._last = view
        if last is None:
            return
        passed = view.at - last.at
        paid = (view.payments.done - last.payments.done) / passed
        drawn = (view.thumbnails.done - last.thumbnails.done) / passed
        self._write(
            f"          breaker {view.state:<9} held {view.payments.held:>4}   payments {paid:5.1f}/s   "
            f"thumbnails {drawn:5.1f}/s   bank {'up' if self._bank.up else 'DOWN'}"
        )


def plain_summary(verdict: Verdict) -> list[str]:
    """Lines of the closing summary."""
    rows = summary(verdict)
    return [f"  {what:<30} {figure:>14}   {meaning}" for what, figure, meaning in rows]
