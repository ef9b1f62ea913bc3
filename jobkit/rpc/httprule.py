"""Path templates of `google.api.http`, parsed and matched.

    Template  = "/" Segments [ ":" LITERAL ]
    Segments  = Segment { "/" Segment }
    Segment   = "*" | "**" | LITERAL | "{" field.path [ "=" Segments ] "}"

Matching is on the raw path, before percent-decoding: there a ":" separates a verb and `%3A` is a name's own. A
verb binds to the last colon, so `/v1/breakers/a:b:reset` resets the breaker `a:b`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

_TOKEN = re.compile(
    r"(?P<rest>\*\*)|(?P<one>\*)|\{(?P<field>[A-Za-z_][\w.]*)(?:=(?P<sub>[^{}]+))?\}|(?P<literal>[^/{}*:]+)"
)
_VERB = re.compile(r":([A-Za-z][\w.-]*)$")
_RESERVED = re.compile(r"(%2[fF])")


class BadTemplate(ValueError):
    """The template does not follow the grammar."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A field that the path fills. `pattern` is its inner template; `many` when it can span segments."""

    field: str
    pattern: str
    many: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template."""

    text: str
    regex: re.Pattern[str]
    variables: tuple[Variable, ...]
    weights: tuple[int, ...]  # 0 for a literal, 1 for a segment, 2 for the rest
    verb: str

    @property
    def rank(self) -> tuple[bool, tuple[int, ...]]:
        """Sorts the more specific template first: one with a verb, then one with earlier literals."""
        return (not self.verb, self.weights)

    def match(self, raw_path: str) -> dict[str, str] | None:
        """The decoded fields, or None. Raises UnicodeDecodeError for a name that is not UTF-8."""
        match = self.regex.fullmatch(raw_path)
        if match is None:
            return None
        return {
            variable.field: _decode(value, variable.many)
            for variable, value in zip(self.variables, match.groups(), strict=True)
        }


def parse(text: str) -> Template:
    """Raises BadTemplate."""
    verb_match = _VERB.search(text)
    path = text[: verb_match.start()] if verb_match else text
    if not path.startswith("/"):
        raise BadTemplate(f"{text}: must start with a slash")
    patterns, weights, variables = [], [], []
    for segment in _split(path[1:]):
        token = _TOKEN.fullmatch(segment)
        if token is None:
            raise BadTemplate(f"{text}: cannot read the segment {segment!r}")
        if token["field"]:
            inner = [_plain(part, text) for part in (token["sub"] or "*").split("/")]
            pattern = "/".join(piece for piece, _ in inner)
            many = len(inner) > 1 or inner[0][1] == 2
            variables.append(Variable(token["field"], token["sub"] or "*", many))
            patterns.append(f"({pattern})")
            weights += [weight for _, weight in inner]
        else:
            pattern, weight = _plain(segment, text)
            patterns.append(pattern)
            weights.append(weight)
    if 2 in weights[:-1]:
        raise BadTemplate(f"{text}: ** must come last")
    verb = verb_match[1] if verb_match else ""
    regex = "/" + "/".join(patterns) + (re.escape(f":{verb}") if verb else "")
    return Template(text, re.compile(regex), tuple(variables), tuple(weights), verb)


def _split(path: str) -> list[str]:
    """At the slashes outside of braces."""
    return re.split(r"/(?![^{}]*\})", path)


def _plain(segment: str, text: str) -> tuple[str, int]:
    token = _TOKEN.fullmatch(segment)
    if token is None or token["field"]:
        raise BadTemplate(f"{text}: cannot read the segment {segment!r}")
    if token["rest"]:
        return ".*", 2
    return ("[^/]+", 1) if token["one"] else (re.escape(segment), 0)


def _decode(value: str, many: bool) -> str:
    if not many:
        return unquote_to_bytes(value).decode()
    # In a field that spans segments an encoded slash stays encoded, or it would look like a separator.
    parts = _RESERVED.split(value)
    return "".join(part if index % 2 else unquote(part, errors="strict") for index, part in enumerate(parts))
