"""What one lane may do while its type has a fleet-wide limit, and what it did: plain state, no clock of its own."""

from __future__ import annotations

import math

from jobkit.domain.limit import LaneReport, Share
from worker.pacer import Pacer

# Between two reports a lane slows down by itself once it has met so many refusals, and they are this share of what
# ended: the fleet's answer comes up to a second later.
BRAKE_FAILED, BRAKE_SHARE = 3, 0.15


class Quota:
    """`limited` False: L is unlimited, everything may start, nothing is counted. Times are the loop's, in seconds."""

    def __init__(self) -> None:
        self.limited = False
        self._share = Share(0)
        self._pacer = Pacer()
        self._frozen: int | None = None
        self._lease_ends = 0.0
        self._began = 0.0
        self.started = self.ok = self.failed = 0
        self._took = 0.0
        self._allowed, self._paced_at = 0.0, 0.0
        self.lacked = False

    @property
    def share(self) -> Share:
        """What the store gave us last."""
        return self._share

    @property
    def rate(self) -> float | None:
        return self._pacer.rate if self.limited else None

    @property
    def slots(self) -> int | None:
        """Attempts that may run at once; None: unlimited. While a report is on its way no more than it says: what it
        gives back may be somebody else's by now."""
        if not self.limited:
            return None
        return self._share.slots if self._frozen is None else min(self._share.slots, self._frozen)

    def limit(self, now: float) -> None:
        """From now on with slots only; none until the store has answered."""
        if not self.limited:
            self.limited = True
            self._allowed, self._paced_at = 0.0, now
            self._pacer.set(None, now)
            self.grant(Share(0), now)
            self._clear(now)

    def unlimit(self) -> None:
        self.limited = False
        self._frozen = None

    def grant(self, share: Share, now: float, lease_ends: float = math.inf) -> None:
        self._share, self._lease_ends, self._frozen = share, lease_ends, None
        self._set_pace(share.rate, now)

    def expired(self, now: float) -> bool:
        """The store has not answered for a whole lease: somebody else may have our slots."""
        return self.limited and now >= self._lease_ends

    def unfreeze(self) -> None:
        """No answer came: what was leased before still is."""
        self._frozen = None

    def wait(self, running: int, now: float) -> float:
        """Seconds until one more may start; 0: now, inf: not before something changes."""
        slots = self.slots
        if slots is None:
            return 0.0
        wait = math.inf if running >= slots else self._pacer.wait(now)
        self.lacked = self.lacked or wait > 0
        return wait

    def on_start(self, now: float) -> None:
        if self.limited:
            self.started += 1
            self._pacer.started(now)

    def on_end(self, good: bool | None, took: float, now: float) -> None:
        """An attempt ended well, badly, or (None) in a way that says nothing; `took` seconds."""
        if not self.limited or good is None:
            return
        if good:
            self.ok += 1
            self._took += took
            return
        self.failed += 1
        share = self.failed / (self.ok + self.failed)
        if self.failed % BRAKE_FAILED == 0 and share > BRAKE_SHARE and self._pacer.rate:
            self._set_pace(self._pacer.rate * (1 - share / 2), now)

    def report(
        self, in_use: int, most: int, operators: tuple[int | None, int], generation: int, now: float
    ) -> LaneReport:
        """What to tell the store; counting begins anew, and nothing more starts before the answer than `in_use`."""
        self._frozen = in_use
        self._set_pace(self._pacer.rate, now)
        limit, revision = operators
        report = LaneReport(
            in_use=in_use,
            most=most,
            lacked=self.lacked,
            limit=limit,
            revision=revision,
            generation=generation,
            started=self.started,
            ok=self.ok,
            failed=self.failed,
            took_ms=round(self._took * 1000),
            span_ms=max(round((now - self._began) * 1000), 0),
            allowed=round(self._allowed),
        )
        self._clear(now)
        return report

    def _set_pace(self, rate: float | None, now: float) -> None:
        self._allowed += (self._pacer.rate or 0.0) * max(now - self._paced_at, 0.0)
        self._paced_at = now
        self._pacer.set(rate, now)

    def _clear(self, now: float) -> None:
        self._began = now
        self._allowed -= round(self._allowed)
        self.started = self.ok = self.failed = 0
        self._took = 0.0
        self.lacked = False
