"""Which deliveries of a channel are not settled yet, so that one frame may acknowledge many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tag:
    """A delivery tag to acknowledge; `multiple`: with it all that are smaller and not settled yet."""

    number: int
    multiple: bool = False


class Unsettled:
    """The tags that one channel has brought and that were neither acknowledged nor given back.

    `multiple` would acknowledge what the broker has sent and we have never seen as well. Tags are given out without
    a gap (AMQP 0-9-1, 3.1.8), so where they came with one it is not used on that channel any more.
    """

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}
        self._last = 0
        self._whole = True

    def __len__(self) -> int:
        return len(self._tags)

    def came(self, tag: int) -> None:
        """A delivery, in the order of their coming."""
        self._whole = self._whole and tag == self._last + 1
        self._last = tag
        self._tags[tag] = None

    def given_back(self, tags: Iterable[int]) -> None:
        """These are no longer ours."""
        for tag in tags:
            self._tags.pop(tag, None)

    def acknowledge(self, tags: Sequence[int]) -> list[Tag]:
        """`tags`, all of them unsettled until now, in as few as possible."""
        wanted = set(tags)
        first: list[int] = []
        if self._whole:
            for tag in self._tags:
                if tag not in wanted:
                    break
                first.append(tag)
        self.given_back(wanted)
        wanted.difference_update(first)
        joined = [Tag(first[-1], multiple=len(first) > 1)] if first else []
        return joined + [Tag(tag) for tag in sorted(wanted)]
