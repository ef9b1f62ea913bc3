"""Breakers of the whole fleet, in Redis."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from jobkit.adapters import tape
from jobkit.adapters.embedded.breakers import Watchers
from jobkit.adapters.redis import codec, key
from jobkit.adapters.redis.key import BreakerKeys
from jobkit.adapters.redis.link import SECOND, Command, RedisLink
from jobkit.adapters.redis.script import Script
from jobkit.adapters.redis.subscriber import Subscriber
from jobkit.domain.attempts import LOG_KEPT, Position, Raw
from jobkit.domain.breaker import (
    JOBS_KEPT,
    MAX_CODES,
    OTHER_CODE,
    WINDOW_SLICES,
    BreakerRecord,
    Evidence,
    Outcome,
    Window,
    outcomes_kept,
)
from jobkit.domain.errors import Unavailable

_log = logging.getLogger(__name__)


class RedisBreakerStore:
    """`ports.BreakerStore`; its clock is the server's. Every atomic step is one script over the keys of one
    breaker; what lies in other slots (the copies for operators, the change counter) is written beside it."""

    def __init__(
        self, url: str, namespace: str, timeout: timedelta = SECOND, connect_timeout: timedelta = SECOND
    ) -> None:
        self._namespace = namespace
        self._link = RedisLink(url, timeout, connect_timeout)
        self._report, self._swap, self._permit, self._readmit = (
            Script.load(name) for name in ("report", "swap", "permit", "readmit")
        )
        self._subscriber = Subscriber(self._link)
        self._watchers = Watchers()
        self._listening = False
        self._corrupt: set[str] = set()

    async def now(self) -> int:
        (time,) = await self._link.run([("TIME",)])
        return _milliseconds(time)

    async def read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        if not names:
            return {}
        values = await self._link.run([("GET", self._keys(name).record) for name in names])
        records = (self._decoded(name, value) for name, value in zip(names, values, strict=True))
        return {record.name: record for record in records if record is not None}

    async def create(self, name: str) -> None:
        record = BreakerRecord(name)
        created, _ = await self._link.script(self._swap, self._all(name), ("", codec.encode(record), "", 0))
        if created:
            await self._beside([*self._bump(name), _copy_of(record)])

    async def report(self, name: str, evidence: Evidence, sample: int, window: int) -> Window:
        counted = evidence.counted
        last = len(counted) - outcomes_kept(sample)
        args: list[str | int] = []
        for position, outcome in enumerate(counted):
            if outcome.code or position >= last:  # an older success can't be among the outcomes kept
                args += (outcome.job_id.hex, outcome.code, outcome.trace, outcome.source)
        logged = (tape.of_report(evidence), LOG_KEPT)
        head = (evidence.generation, *self._bounds(sample, window), evidence.worker, *logged)
        seen = await self._evaluate(name, (*head, *args))
        failed = {outcome.code for outcome in counted if outcome.code}
        if failed and evidence.generation == seen.record.generation:
            failed.add(OTHER_CODE)
            counts = {code: count for code, count in seen.failures.items() if code in failed}
            await self._beside([_failure_copy(name, code, count, window) for code, count in counts.items()])
        return seen

    async def window(self, name: str, sample: int, window: int) -> Window:
        return await self._evaluate(name, ("", *self._bounds(sample, window), "", "", 0))

    async def swap(
        self, name: str, generation: int, record: BreakerRecord, probe: Outcome | None = None
    ) -> bool:
        # The counter moves in the same write, won or lost: a process that dies right after its swap must not
        # leave the others with what they knew. The copies have to wait for the answer; `repair` completes them.
        args = (generation, codec.encode(record), tape.of_swap(generation, record, probe), LOG_KEPT)
        swapped, codes = await self._link.script(self._swap, self._all(name), args, beside=self._bump(name))
        if not swapped:
            return False
        gone = [("DEL", key.operator_failure(name, code)) for code in codes]
        await self._beside([_copy_of(record), *gone])
        return True

    async def take_permit(
        self, name: str, generation: int, holder: str, permits: int, lease: timedelta
    ) -> bool:
        return await self._permitted(
            name, self._keys(name).permits, (generation, holder, permits, _ms(lease))
        )

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        await self._permitted(name, self._keys(name).permits, (generation, holder, 0, 0))

    async def eject(self, name: str, generation: int, worker: str, limit: int, lease: timedelta) -> bool:
        if limit < 1:
            return False
        return await self._permitted(name, self._keys(name).ejected, (generation, worker, limit, _ms(lease)))

    async def readmit(self, name: str, worker: str, trial: Outcome | None = None) -> None:
        keys = self._keys(name)
        args = (worker, tape.of_return(worker, trial), LOG_KEPT)
        await self._link.script(self._readmit, (keys.ejected, keys.recent, keys.log), args)

    async def version(self) -> int:
        (value,) = await self._link.run([("GET", key.changes(self._namespace))])
        return int(value) if isinstance(value, str) and value.isdecimal() else 0

    async def failures(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        counts = [("HGETALL", self._keys(name).counts) for name in names]
        time, *fields = await self._link.run([("TIME",), *counts])
        now = _milliseconds(time)
        totals = {name: _attempts(found, now) for name, found in zip(names, fields, strict=True)}
        return {
            name: {code: count for code, (count, _) in codes.items()}
            for name, codes in totals.items()
            if codes
        }

    async def repair(self, names: Sequence[str]) -> None:
        commands: list[Command] = [("TIME",)]
        for name in names:
            keys = self._keys(name)
            commands += [("GET", keys.record), ("GET", key.operator_breaker(name)), ("HGETALL", keys.counts)]
        time, *answers = await self._link.run(commands)
        now, wrong = _milliseconds(time), list[Command]()
        for name, value, copy, counts in zip(names, answers[::3], answers[1::3], answers[2::3], strict=True):
            record = self._decoded(name, value)
            if record is not None and copy != codec.for_operators(record):
                wrong.append(_copy_of(record))
            for code, (count, left) in _attempts(counts, now).items():
                wrong.append(_failure_copy(name, code, count, left))
        if wrong:
            await self._link.run(wrong)

    async def log(self, name: str, limit: int) -> list[Raw]:
        (found,) = await self._link.run([("XRANGE", self._keys(name).log, "-", "+", "COUNT", limit)])
        entries = []
        for position, fields in found if isinstance(found, list) else ():
            values = (
                fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=False))
            )
            at = values.get("t", "")
            if at.isdecimal():
                after = _position(values["p"]) if "p" in values else None
                entries.append(Raw(_position(position), int(at), values.get("e", ""), after))
        return entries

    async def forget_log(self, name: str, upto: Position) -> None:
        ms, number = upto
        log = self._keys(name).log
        # Once empty it stays, for it knows its last position.
        await self._link.run([("XTRIM", log, "MINID", f"{ms}-{number + 1}"), ("PERSIST", log)])

    def changes(self) -> AsyncIterator[str]:
        if not self._listening:
            self._listening = True
            self._subscriber.listen(key.changes(self._namespace), self._watchers.tell)
        return self._watchers.watch()

    async def close(self) -> None:
        self._watchers.close()
        await self._subscriber.close()
        await self._link.close()

    def _keys(self, name: str) -> BreakerKeys:
        return BreakerKeys.of(self._namespace, name)

    def _all(self, name: str) -> Sequence[str]:
        keys = self._keys(name)
        evidence = (keys.recent, keys.codes, keys.counts, keys.jobs)
        return (keys.record, *evidence, keys.permits, keys.workers, keys.sources, keys.ejected, keys.log)

    def _bounds(self, sample: int, window: int) -> Command:
        return (sample, outcomes_kept(sample), window, JOBS_KEPT, MAX_CODES, OTHER_CODE, WINDOW_SLICES)

    def _bump(self, name: str) -> Sequence[Command]:
        changes = key.changes(self._namespace)
        return (("INCR", changes), ("PUBLISH", changes, name))

    async def _beside(self, commands: Sequence[Command]) -> None:
        """What follows a step that is done already: that it is missing must not look like the step's failure."""
        try:
            await self._link.run(commands)
        except Unavailable:
            _log.warning("copies for operators were not written; a repair will")

    async def _permitted(self, name: str, permits: str, args: Command) -> bool:
        return bool(await self._link.script(self._permit, (self._keys(name).record, permits), args))

    async def _evaluate(self, name: str, args: Command) -> Window:
        answer = await self._link.script(self._report, self._all(name), args)
        now, value, recent, before, codes, first, workers, sources, ejected = answer
        return Window(
            now=int(now),
            record=(self._decoded(name, value) if value else None) or BreakerRecord(name),
            distinct_jobs={code: int(jobs) for code, jobs in zip(codes[::3], codes[1::3], strict=True)},
            failures={code: int(count) for code, count in zip(codes[::3], codes[2::3], strict=True)},
            seen=tuple(codec.seen(entry) for entry in recent),
            before={code: int(count) for code, count in zip(before[::2], before[1::2], strict=True)},
            first_failure_at=int(first) if first else None,
            workers=int(workers),
            sources=int(sources),
            ejected={name: int(until) for name, until in zip(ejected[::2], ejected[1::2], strict=True)},
        )

    def _decoded(self, name: str, value: Any) -> BreakerRecord | None:
        """None where there is no record, or something else in its place: that is logged once, and the breaker
        counts as absent, so that the next `create` or `swap` writes a good one."""
        if value is None:
            return None
        record = codec.decode(name, value) if isinstance(value, str) else None
        if record is None and name not in self._corrupt:
            _log.error("the record of breaker %s is corrupt: it counts as absent", name)
            self._corrupt.add(name)
        if record is not None:
            self._corrupt.discard(name)
        return record


def _ms(span: timedelta) -> int:
    return round(span / timedelta(milliseconds=1))


def _position(entry_id: str) -> Position:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


def _milliseconds(time: Sequence[str]) -> int:
    seconds, microseconds = time
    return int(seconds) * 1000 + int(microseconds) // 1000


def _copy_of(record: BreakerRecord) -> Command:
    return ("SET", key.operator_breaker(record.name), codec.for_operators(record))


def _failure_copy(name: str, code: str, count: int, ttl: int) -> Command:
    return ("SET", key.operator_failure(name, code), count, "PX", ttl)


def _attempts(fields: Any, now: int) -> dict[str, tuple[int, int]]:
    """Failed attempts by code, and in how many ms the last of them leaves the window, from the hash that
    report.lua writes: `<code>|<start of the slice>` = `<count> <first>`, and `window`."""
    totals: dict[str, tuple[int, int]] = {}
    if not isinstance(fields, dict) or not str(fields.get("window", "")).isdecimal():
        return totals
    window = int(fields["window"])
    length = max(window // WINDOW_SLICES, 1)
    for field, value in fields.items():
        code, _, start = field.partition("|")
        count = value.partition(" ")[0]
        if not (start.isdecimal() and count.isdecimal()):
            continue
        left = int(start) + length + window - now
        if left > 0:
            sum_before, left_before = totals.get(code, (0, 0))
            totals[code] = (sum_before + int(count), max(left, left_before))
    return totals
