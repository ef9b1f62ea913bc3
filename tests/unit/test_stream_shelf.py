"""What a worker was given and what it answered: whatever the order, the shelf says what is true."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from controlplane.streams.shelf import Answer, Shelf
from controlplane.streams.view import KindView, PushState
from jobkit.domain.errors import InvalidJob

KINDS = ("breakers", "policies")
REFUSAL = (3, "unknown job type")


def test_what_the_worker_brought_is_no_news() -> None:
    shelf = Shelf({"breakers": 7})
    assert not shelf.wants("breakers", 7)
    assert shelf.wants("breakers", 8)
    assert shelf.wants("breakers", 6)  # the database was restored from an older copy
    assert shelf.wants("policies", 1)
    assert shelf.view() == (KindView("breakers", 7, 7, PushState.ACKED),)


def test_a_refused_version_is_not_offered_again_and_the_next_one_is() -> None:
    shelf = Shelf({"breakers": 7})
    nonce = shelf.offer("breakers", 8)
    assert shelf.answer("breakers", nonce, 8, REFUSAL) is Answer.NACK
    assert shelf.view() == (KindView("breakers", 8, 7, PushState.NACKED, *REFUSAL),)
    assert not shelf.wants("breakers", 8)
    assert shelf.wants("breakers", 9)
    assert shelf.answer("breakers", shelf.offer("breakers", 9), 9, None) is Answer.ACK
    assert shelf.view() == (KindView("breakers", 9, 9, PushState.ACKED),)


@pytest.mark.parametrize(
    ("kind", "nonce", "version"),
    [
        ("policies", "1", 8),  # of another kind, which was never pushed
        ("breakers", "2", 8),
        ("breakers", "0", 8),
        ("breakers", "", 8),
        ("breakers", "-1", 8),
        ("breakers", "9" * 5000, 8),
        ("breakers", "1", 9),
    ],
)
def test_an_answer_to_nothing_breaks_the_rules(kind: str, nonce: str, version: int) -> None:
    shelf = Shelf({})
    assert shelf.offer("breakers", 8) == "1"
    with pytest.raises(InvalidJob):
        shelf.answer(kind, nonce, version, None)


class Machine(RuleBasedStateMachine):
    """Against a model that keeps, for each kind, the last push and the last version taken."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf = Shelf({})
        self.pushes: list[tuple[str, str, int]] = []
        self.last: dict[str, tuple[str, int]] = {}
        self.held: dict[str, int] = {}
        self.open: set[str] = set()

    @rule(kind=sampled_from(KINDS), version=integers(1, 5))
    def offer(self, kind: str, version: int) -> None:
        if not self.shelf.wants(kind, version):
            assert self.last[kind][1] == version
            return
        nonce = self.shelf.offer(kind, version)
        assert nonce not in {seen for _, seen, _ in self.pushes}
        self.pushes.append((kind, nonce, version))
        self.last[kind] = (nonce, version)
        self.open.add(kind)

    @precondition(lambda self: self.pushes)
    @rule(at=integers(0, 50), taken=booleans())
    def answer(self, at: int, taken: bool) -> None:
        kind, nonce, version = self.pushes[at % len(self.pushes)]
        answer = self.shelf.answer(kind, nonce, version, None if taken else REFUSAL)
        if nonce != self.last[kind][0] or kind not in self.open:
            assert answer is Answer.STALE
            return
        self.open.discard(kind)
        assert answer is (Answer.ACK if taken else Answer.NACK)
        if taken:
            self.held[kind] = version

    @invariant()
    def tells_the_truth(self) -> None:
        for view in self.shelf.view():
            assert view.version == self.last[view.kind][1]
            assert view.held == self.held.get(view.kind, 0)
            assert (view.state is PushState.PENDING) == (view.kind in self.open)
            assert bool(view.error) == (view.state is PushState.NACKED)


TestShelfMachine = Machine.TestCase
TestShelfMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
