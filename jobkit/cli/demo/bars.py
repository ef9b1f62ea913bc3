"""Small drawings of figures, in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

EIGHTHS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int, top: float) -> str:
    """The last `width` values, `top` as a full block; anything above zero can be seen."""
    marks = [max(min(round(value / top * 8), 8), 1 if value > 0 else 0) for value in values[-width:]]
    return "".join(EIGHTHS[mark] for mark in marks).rjust(width)


def bar(share: float, width: int) -> str:
    """`share` of `width`, 0 to 1."""
    full = round(max(min(share, 1.0), 0.0) * width)
    return "█" * full + "░" * (width - full)
