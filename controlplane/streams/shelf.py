"""What one worker was given and what it answered, by the rules of xDS. Pure.

offer ──▶ PENDING ── ACK of its nonce ──▶ ACKED   the worker holds the version
             ▲    └─ NACK of its nonce ─▶ NACKED  it holds what it held; the version is not offered again
             └── offer of another version: a new nonce, and answers to the old one change nothing
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.streams.view import KindView, PushState
from jobkit.domain.errors import FieldViolation, InvalidJob

MAX_NONCE = 18


class Answer(StrEnum):
    """What an answer to a push turned out to be; the label of the metric."""

    ACK = "ack"
    NACK = "nack"
    STALE = "stale"


@dataclass(slots=True)
class _Kind:
    held: int
    version: int
    nonce: str = ""  # empty once it is answered
    state: PushState = PushState.ACKED
    code: int = 0
    error: str = ""


class Shelf:
    """All kinds of one stream. `held` are the versions that the worker brought along."""

    def __init__(self, held: Mapping[str, int]) -> None:
        self._kinds = {kind: _Kind(version, version) for kind, version in held.items()}
        self._nonces = 0

    def wants(self, kind: str, version: int) -> bool:
        """Whether this version is news for the worker."""
        known = self._kinds.get(kind)
        return known is None or known.version != version

    def offer(self, kind: str, version: int) -> str:
        """The nonce of a push of this version, which supersedes every earlier one of the kind."""
        known = self._kinds.setdefault(kind, _Kind(0, 0))
        self._nonces += 1
        known.version, known.nonce, known.state = version, str(self._nonces), PushState.PENDING
        known.code, known.error = 0, ""
        return known.nonce

    def answer(self, kind: str, nonce: str, version: int, refusal: tuple[int, str] | None) -> Answer:
        """Take the worker's answer; `refusal` is a code and a message. Raises InvalidJob for an answer to something
        that was never pushed."""
        known = self._kinds.get(kind)
        if known is None or not self._gave_out(nonce):
            raise InvalidJob([FieldViolation("ack.nonce", "must be that of a push on this stream")])
        if nonce != known.nonce:
            return Answer.STALE
        if version != known.version:
            raise InvalidJob([FieldViolation("ack.version", "must be that of the push with this nonce")])
        known.nonce = ""
        if refusal is not None:
            known.state, (known.code, known.error) = PushState.NACKED, refusal
            return Answer.NACK
        known.state, known.held = PushState.ACKED, version
        return Answer.ACK

    def _gave_out(self, nonce: str) -> bool:
        return len(nonce) <= MAX_NONCE and nonce.isdecimal() and 1 <= int(nonce) <= self._nonces

    def view(self) -> tuple[KindView, ...]:
        return tuple(
            KindView(kind, known.version, known.held, known.state, known.code, known.error)
            for kind, known in sorted(self._kinds.items())
        )
