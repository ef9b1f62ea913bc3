"""What failures have in common: the shape of a message, and the group that it puts a quarantined job in."""

from __future__ import annotations

import re
from hashlib import blake2b

MAX_SHAPE = 200
# Longer messages are cut before they are read: what tells failures apart stands at their beginning.
MAX_READ = 2_000

# Each is anchored, so that it takes time in proportion to the message, whatever somebody put into it.
# In this order: what is long and certain first, so that no rule sees half of what another would have taken whole.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r'"[^"\n]*"|`[^`\n]*`|(?<!\w)\'[^\'\n]*\'(?!\w)'), "<text>"),
    (re.compile(r"(?<![\w+.-])[a-z][a-z0-9+.-]{0,20}://[^\s<>\"']+", re.IGNORECASE), "<url>"),
    (re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<email>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"(?<![\w/])(?:~|\.{1,2})?(?:/[\w.@%+~-]+){2,}/?|\b[A-Z]:\\[^\s:;,\"'<>|]+"), "<path>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    # Hexadecimal without a prefix is told from words and numbers by having letters and digits, and some length.
    (re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)
_SPACE = re.compile(r"\s+")


def shape_of(message: str) -> str:
    """The message without what differs from job to job: quoted strings, URLs, e-mail addresses, UUIDs, paths,
    hexadecimal and numbers. At most `MAX_SHAPE` characters, on one line. Of its own answer it changes nothing."""
    text = message[:MAX_READ]
    for pattern, name in _RULES:
        text = pattern.sub(name, text)
    return _SPACE.sub(" ", text).strip()[:MAX_SHAPE].rstrip()


def group_of(job_type: str, code: str, message: str) -> int:
    """The failure group of a job: one number, 0 to 2⁶³ - 1, for its type, error code and message shape. Stored with
    the job, so it must never change between releases: what is grouped already would be grouped anew."""
    content = "\0".join((job_type, code, shape_of(message))).encode("utf-8", "replace")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 1


def group_name(group: int) -> str:
    """The group as people and filters write it: 16 hexadecimal digits."""
    return f"{group:016x}"


_NAME = re.compile(r"[0-9a-f]{16}")


def group_number(name: str) -> int | None:
    """The group of that name; None when nothing can have it."""
    number = int(name, 16) if _NAME.fullmatch(name) else -1
    return number if 0 <= number < 2**63 else None
