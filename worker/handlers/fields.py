"""Reading a payload: each reader returns a value of the right type or raises `Permanent`, naming the field."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from jobkit.domain.outcome import VALIDATION_ERROR
from jobkit.handling import Permanent

_BREAKS_A_LINE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def invalid(path: str, message: str) -> Permanent:
    """`message` completes the sentence that begins with the field's name."""
    return Permanent(VALIDATION_ERROR, f"{path} {message}")


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], prefix: str = "payload.") -> None:
    """An unknown field is more often a misspelt one than one to be ignored."""
    for name in fields:
        if name not in known:
            raise invalid(f"{prefix}{name}", "is not a field of this job type")


def text(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A string; required when there is no default."""
    value = fields.get(name, default)
    if value is None:
        raise invalid(f"payload.{name}", "is required")
    if not isinstance(value, str):
        raise invalid(f"payload.{name}", "must be a string")
    return value


def line(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A string that is safe in a header: one line, no control characters."""
    value = text(fields, name, default)
    if not is_line(value):
        raise invalid(f"payload.{name}", "must be one line without control characters")
    return value


def is_line(value: str) -> bool:
    """Whether nothing in `value` can end a header's line, by ASCII's rules or by Unicode's."""
    return _BREAKS_A_LINE.search(value) is None
