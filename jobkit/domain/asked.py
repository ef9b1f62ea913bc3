"""What is asked alike of all kinds of things: so much of a list, this one by its id, on whose word and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound

MAX_PAGE = 1_000
MAX_TEXT = 500

T = TypeVar("T")


def page_size(asked: int, default: int = MAX_PAGE) -> int:
    """How many to give: `default` for 0, never more than MAX_PAGE. Raises InvalidJob for a negative one."""
    if asked < 0:
        raise InvalidJob([FieldViolation("page_size", "must not be negative")])
    return min(asked or default, MAX_PAGE)


def page_by_name(items: Iterable[T], name: Callable[[T], str], after: str, size: int) -> tuple[list[T], str]:
    """A page of `items`, which come in the order of their names, and the next page's token ("": it was the last). The
    token is the last name of the page before."""
    rest = [item for item in items if name(item) > after]
    page = rest[:size]
    return page, name(page[-1]) if len(rest) > size else ""


def parse_id(kind: str, text: str) -> UUID:
    """Raises NotFound for a malformed id: nothing of that kind has such a name."""
    try:
        found = UUID(text)
    except ValueError:
        raise NotFound(kind, text[:64]) from None
    if str(found) != text.lower():
        raise NotFound(kind, text[:64])
    return found


def text_violations(actor: str, reason: str) -> list[FieldViolation]:
    """Those that are too long to record."""
    return [
        FieldViolation(path, f"must be at most {MAX_TEXT} characters")
        for path, text in (("actor", actor), ("reason", reason))
        if len(text) > MAX_TEXT
    ]


def check_texts(actor: str, reason: str) -> None:
    """Raises InvalidJob when one is too long to record."""
    if wrong := text_violations(actor, reason):
        raise InvalidJob(wrong)
