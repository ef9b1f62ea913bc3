"""Entries of the attempt log as text: the same in memory, in Redis and in the database.

A report is `["r", generation, worker, fraction, trial, outcome, ...]`, an outcome `[source, code, job]` of a failure
and `[source, how many]` of successes in a row; a swap is `["m", generation before, record]`, a readmission
`["b", worker]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from jobkit.adapters.redis import codec
from jobkit.domain.attempts import Logged, Moved, Raw, Readmitted
from jobkit.domain.breaker import BreakerRecord, Evidence, Outcome

NOBODY = UUID(int=0)  # successes do not tell their jobs


def of_report(evidence: Evidence) -> str:
    told: list[list[Any]] = []
    for outcome in evidence.outcomes:
        if outcome.code:
            told.append([outcome.source, outcome.code, outcome.job_id.hex])
        elif told and len(told[-1]) == 2 and told[-1][0] == outcome.source:
            told[-1][1] += 1
        else:
            told.append([outcome.source, 1])
    head = ["r", evidence.generation, evidence.worker, evidence.fraction, int(evidence.trial)]
    return orjson.dumps([*head, *told]).decode()


def of_swap(was: int, record: BreakerRecord) -> str:
    moves = tuple(replace(move, proof=None) for move in record.transitions[-1:])
    return orjson.dumps(["m", was, replace(record, transitions=moves)]).decode()


def of_return(worker: str) -> str:
    return orjson.dumps(["b", worker]).decode()


def read(name: str, entries: Sequence[Raw]) -> Iterator[Logged]:
    """What cannot be read, because a later release wrote it or somebody else did, is left out."""
    for raw in entries:
        try:
            what = _what(name, orjson.loads(raw.text))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue
        if what is not None:
            yield Logged(raw.position, raw.at, what)


def _what(name: str, found: list[Any]) -> Evidence | Moved | Readmitted | None:
    match found:
        case ["r", int(generation), str(worker), float(fraction) | int(fraction), int(trial), *told]:
            outcomes = tuple(outcome for each in told for outcome in _outcomes(each))
            return Evidence(generation, outcomes, worker, fraction, bool(trial))
        case ["m", int(was), dict(values)]:
            record = codec.decode(name, orjson.dumps(values).decode())
            return None if record is None else Moved(record, was)
        case ["b", str(worker)]:
            return Readmitted(worker)
    return None


def _outcomes(told: list[Any]) -> Iterator[Outcome]:
    if len(told) == 2:
        source, count = told
        yield from (Outcome(NOBODY, "", source),) * count
    else:
        source, code, job = told
        yield Outcome(UUID(job), code, source)
