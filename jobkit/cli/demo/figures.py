"""What a screen needs beyond one look: rates over time, and the cooldown as a share."""

from __future__ import annotations

from collections import deque

from selfheal.control.v1 import breaker_pb2

from jobkit.cli.demo.handlers import PAYMENT, THUMBNAIL
from jobkit.cli.demo.view import View
from jobkit.rpc.convert import from_timestamp

KEPT = 400
SMOOTH = 1.0  # seconds that a rate is taken over


class Figures:
    """Fed with every view; `rates` are jobs done a second, the newest last, one each `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._recent: deque[View] = deque()
        self._sampled = 0.0
        self.rates: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in (PAYMENT, THUMBNAIL)}
        self.rate = dict.fromkeys(self.rates, 0.0)
        self.most_held = 0

    def add(self, view: View) -> None:
        self._recent.append(view)
        while len(self._recent) > 2 and self._recent[1].at <= view.at - SMOOTH:
            self._recent.popleft()
        first = self._recent[0]
        self.most_held = max(self.most_held, view.payments.held)
        passed = view.at - first.at
        if passed <= 0:
            return
        for name in self.rate:
            self.rate[name] = (_done(view, name) - _done(first, name)) / passed
        if view.at - self._sampled >= self._interval:
            self._sampled = view.at
            for name, kept in self.rates.items():
                kept.append(self.rate[name])


def _done(view: View, name: str) -> int:
    return view.flows[name].done if name in view.flows else 0


def cooldown(breaker: breaker_pb2.Breaker, now: float) -> tuple[float, float] | None:
    """Seconds left of the open time, and its length; None when it is not running. `now` in seconds since the epoch,
    by the clock of the store, which in the demo is this machine's."""
    if breaker.state != breaker_pb2.BREAKER_STATE_OPEN or not breaker.HasField("open_until"):
        return None
    until = from_timestamp(breaker.open_until).timestamp()
    # The open time that runs now began with the last transition, not with the first opening.
    began = from_timestamp(breaker.transitions[-1].transition_time).timestamp()
    return max(until - now, 0.0), max(until - began, 0.001)
