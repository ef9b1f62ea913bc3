"""Panels of horizontal bars: `plot.py FILE < panels.json`. Runs where matplotlib is, knows nothing of the bench."""

from __future__ import annotations

import json
import sys

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 9})
import matplotlib.pyplot as plt  # noqa: E402 - after the backend is chosen

OURS, OTHERS = "#2f6f9f", "#b9c4cc"


def main() -> None:
    panels = json.load(sys.stdin)
    figure, places = plt.subplots((len(panels) + 1) // 2, 2, figsize=(10, 2.7 * ((len(panels) + 1) // 2)))
    for place in places.flat[len(panels) :]:
        place.axis("off")
    for place, panel in zip(places.flat, panels, strict=False):
        bars = sorted(panel["bars"], key=lambda bar: bar[1])
        colours = [OURS if bar[0].startswith(panel["ours"]) else OTHERS for bar in bars]
        spread = [[bar[1] - bar[2] for bar in bars], [bar[3] - bar[1] for bar in bars]]
        drawn = place.barh([bar[0] for bar in bars], [bar[1] for bar in bars], xerr=spread, color=colours)
        place.bar_label(drawn, fmt="{:,.0f}" if not panel.get("log") else "{:,.1f}", padding=4)
        place.set_title(panel["title"], loc="left")
        place.spines[["top", "right"]].set_visible(False)
        place.margins(x=0.15)
        if panel.get("log"):
            place.set_xscale("log")
            place.xaxis.set_major_formatter("{x:g}")
            place.xaxis.set_minor_formatter("")
    figure.tight_layout()
    figure.savefig(sys.argv[1], metadata={"Date": None})


main()
