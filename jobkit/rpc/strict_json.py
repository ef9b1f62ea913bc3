"""JSON as strict as the rest of the system needs it, with every refusal naming the path.

What is refused would otherwise be accepted here and go wrong elsewhere: integers beyond ± 2^53 change on the
gRPC wire, NaN is no JSON, a lone surrogate is no UTF-8, and nesting beyond `MAX_NESTING` makes a protobuf
message that its own parsers refuse to read back.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import orjson

from jobkit.rpc.convert import SAFE_INTEGER

# protobuf's parsers stop at 100 nested messages. An object costs three of them, and a job's payload lies up to
# three deep in our responses: 3 + 3 · 32 = 99.
MAX_NESTING = 32

_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_@:$-]+")


class MalformedJson(ValueError):
    """The text is no JSON."""


@dataclass(frozen=True, slots=True)
class Unsafe:
    """A value that cannot be kept as it is: where (`payload.a[2]`) and why, as a sentence without a dot."""

    path: str
    message: str


def decode(data: bytes) -> Any:
    """The value of JSON text. Raises MalformedJson; duplicate keys are fine, the last one wins."""
    try:
        value = orjson.loads(data)
        # orjson reads integers over 64 bits as floats; the standard library tells them from 1e300.
        return json.loads(data) if _LONG_NUMBER.search(data) else value
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"malformed JSON: {error}") from None
    except (ValueError, RecursionError):
        raise MalformedJson("malformed JSON: too many digits or levels") from None


def find_unsafe(value: Any, path: str = "") -> Unsafe | None:
    """The first thing in a decoded value that this system refuses; None when all is well."""
    return _find(value, path, 0)


def find_unsafe_number(value: Any, path: str = "") -> str | None:
    """The path of the first number that is no double: an integer beyond ± 2^53, NaN or an infinity."""
    found = _find(value, path, 0, numbers_only=True)
    return found.path if found else None


def _find(value: Any, path: str, depth: int, numbers_only: bool = False) -> Unsafe | None:
    if isinstance(value, dict | list | tuple):
        if depth > MAX_NESTING:
            return Unsafe(path, f"must not be nested more than {MAX_NESTING} levels deep")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            if isinstance(key, str) and not numbers_only and _SURROGATE.search(key):
                return Unsafe(path, "must not have a key with a lone surrogate")
            # Paths are built for containers and culprits only: most values are neither.
            if isinstance(item, dict | list | tuple):
                found = _find(item, _join(path, key), depth + 1, numbers_only)
                if found is not None:
                    return found
            elif message := _refusal(item, numbers_only):
                return Unsafe(_join(path, key), message)
        return None
    message = _refusal(value, numbers_only)
    return Unsafe(path, message) if message else None


def _refusal(value: Any, numbers_only: bool) -> str:
    if isinstance(value, str):
        return "" if numbers_only or not _SURROGATE.search(value) else "must not contain a lone surrogate"
    if isinstance(value, int):
        return "" if -SAFE_INTEGER <= value <= SAFE_INTEGER else "must be an integer within ±2^53"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "must be a finite number"
    return ""


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        key = json.dumps(key[:64])
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key
