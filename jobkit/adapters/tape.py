"""Entries of the attempt log as text: the same in memory, in Redis and in the database.

A report is `["r", generation, worker, fraction, trial, outcome, ...]`, a swap `["m", generation before, record]`, a
readmission `["b", worker]`; the latter two end with the outcome that led to them, where one did.

An outcome is `[source, own code, job, ms, ignored]` of a failure, and of a slow call, whose own code is "". Successes
in a row are `[source, letters]`, a letter for the duration of each. Before durations were recorded, they were
`[source, code, job]` and `[source, how many]`, a slow call had the code SLOW_CALL, and what was ignored was left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from jobkit.adapters.redis import codec
from jobkit.domain.attempts import FLOORS, Logged, Moved, Raw, Readmitted, floor_of
from jobkit.domain.breaker import NOBODY, SLOW_CALL, BreakerRecord, Evidence, Outcome

UNKNOWN = "0"
# From "1" on, one for each of `FLOORS`.
LETTERS = [chr(ord(UNKNOWN) + 1 + index) for index in range(len(FLOORS))]
DURATIONS: dict[str, int | None] = {UNKNOWN: None, **dict(zip(LETTERS, FLOORS, strict=True))}


def of_report(evidence: Evidence) -> str:
    head = ["r", evidence.generation, evidence.worker, evidence.fraction, int(evidence.trial)]
    return orjson.dumps([*head, *_told(evidence.outcomes)]).decode()


def of_swap(was: int, record: BreakerRecord, probe: Outcome | None = None) -> str:
    # Two of one generation where a worker's own move became the fleet's.
    made = record.transitions[-2 if record.taken_along else -1 :]
    moves = tuple(replace(move, proof=None) for move in made)
    return orjson.dumps(["m", was, replace(record, transitions=moves), *_told_one(probe)]).decode()


def of_return(worker: str, trial: Outcome | None = None) -> str:
    return orjson.dumps(["b", worker, *_told_one(trial)]).decode()


def read(name: str, entries: Sequence[Raw]) -> Iterator[Logged]:
    """What cannot be read, because a later release wrote it or somebody else did, is left out."""
    for raw in entries:
        try:
            what = _what(name, orjson.loads(raw.text))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue
        if what is not None:
            yield Logged(raw.position, raw.at, what)


def _told(outcomes: Sequence[Outcome]) -> list[list[Any]]:
    """Successes in a row share an element."""
    told: list[list[Any]] = []
    for outcome in outcomes:
        if outcome.code:
            job, ignored = outcome.job_id.hex, int(outcome.ignored)
            told.append([outcome.source, outcome.own_code, job, outcome.took, ignored])
            continue
        letter = UNKNOWN if outcome.took is None else LETTERS[floor_of(outcome.took)]
        if told and len(told[-1]) == 2 and told[-1][0] == outcome.source:
            told[-1][1] += letter
        else:
            told.append([outcome.source, letter])
    return told


def _told_one(outcome: Outcome | None) -> list[list[Any]]:
    return [] if outcome is None else _told([outcome])


def _what(name: str, found: list[Any]) -> Evidence | Moved | Readmitted | None:
    match found:
        case ["r", int(generation), str(worker), float(fraction) | int(fraction), int(trial), *told]:
            outcomes = tuple(outcome for each in told for outcome in _outcomes(each))
            return Evidence(generation, outcomes, worker, fraction, bool(trial))
        case ["m", int(was), dict(values), *told]:
            record = codec.decode(name, orjson.dumps(values).decode())
            return None if record is None else Moved(record, was, _one(told))
        case ["b", str(worker), *told]:
            return Readmitted(worker, _one(told))
    return None


def _one(told: list[Any]) -> Outcome | None:
    return next(_outcomes(told[0]), None) if told else None


def _outcomes(told: list[Any]) -> Iterator[Outcome]:
    match told:
        case [str(source), str(letters)]:
            made = {letter: Outcome(NOBODY, "", source, took=DURATIONS[letter]) for letter in set(letters)}
            yield from (made[letter] for letter in letters)
        case [str(source), int(count)]:
            yield from (Outcome(NOBODY, "", source),) * count
        case [str(source), str(code), str(job), int() | None as took, int(ignored)]:
            yield Outcome(UUID(job), code or SLOW_CALL, source, "", took, not code, bool(ignored))
        case [str(source), str(code), str(job)]:
            yield Outcome(UUID(job), code, source, slow=code == SLOW_CALL)
        case _:
            raise ValueError(f"no outcome: {told!r}")
