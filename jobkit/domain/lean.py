"""Values that are made thousands of times a second."""

from __future__ import annotations

from dataclasses import Field, field, fields, make_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def lean(made: type[T]) -> type[T]:
    """Put it on a frozen dataclass that the way of every job makes. A frozen one sets each of its fields by
    `object.__setattr__`, which takes six times as long as an assignment: with sixteen fields 1.6 µs in place of 0.2.
    The type checker still refuses to change one; at run time nothing does."""
    assert not hasattr(made, "__post_init__"), made
    plain = make_dataclass(made.__name__, [(f.name, f.type, _as_declared(f)) for f in fields(made)])  # type: ignore[arg-type]
    made.__init__ = plain.__init__  # type: ignore[misc, method-assign]
    del made.__setattr__, made.__delattr__
    return made


def _as_declared(declared: Field[Any]) -> Any:
    return field(
        default=declared.default,
        default_factory=declared.default_factory,
        init=declared.init,
        kw_only=declared.kw_only,
    )
