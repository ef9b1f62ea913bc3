"""One frame acknowledges many messages, and never one that was not to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobkit.adapters.rabbitmq.tags import Tag, Unsettled


def brought(*tags: int) -> Unsettled:
    unsettled = Unsettled()
    for tag in tags:
        unsettled.came(tag)
    return unsettled


def test_all_from_the_first_on_are_one_frame() -> None:
    assert brought(1, 2, 3, 4).acknowledge([3, 1, 2]) == [Tag(3, multiple=True)]


def test_one_alone_is_acknowledged_alone() -> None:
    assert brought(1, 2).acknowledge([1]) == [Tag(1)]


def test_what_runs_on_ends_the_row() -> None:
    unsettled = brought(1, 2, 3, 4, 5)
    assert unsettled.acknowledge([1, 2, 4, 5]) == [Tag(2, multiple=True), Tag(4), Tag(5)]
    assert len(unsettled) == 1


def test_what_was_given_back_or_acknowledged_before_is_no_gap() -> None:
    unsettled = brought(1, 2, 3, 4, 5, 6)
    unsettled.given_back([1, 3])
    assert unsettled.acknowledge([4]) == [Tag(4)]
    assert unsettled.acknowledge([2, 5, 6]) == [Tag(6, multiple=True)]


def test_a_message_that_never_came_is_not_acknowledged_with_others() -> None:
    assert brought(1, 3, 4).acknowledge([1, 3, 4]) == [Tag(1), Tag(3), Tag(4)]


@given(st.lists(st.integers(0, 4), max_size=60), st.data())
def test_exactly_what_was_asked_is_acknowledged(steps: list[int], data: st.DataObject) -> None:
    unsettled, broker, last = Unsettled(), set[int](), 0
    for step in steps:
        if step < 3:
            last += 1
            if data.draw(st.booleans(), label="lost on its way") and step == 2:
                broker.add(last)
                continue
            unsettled.came(last)
            broker.add(last)
            continue
        mine = sorted(unsettled._tags)
        chosen = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        if step == 3:
            unsettled.given_back(chosen)
            broker -= set(chosen)
            continue
        expected = broker - set(chosen)
        for tag in unsettled.acknowledge(chosen):
            assert tag.number in broker  # or the broker would close the channel
            broker -= {held for held in broker if held <= tag.number} if tag.multiple else {tag.number}
        assert broker == expected
