"""The story as a screen that lives."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from jobkit.cli.demo.bank import Bank
from jobkit.cli.demo.bars import bar, sparkline
from jobkit.cli.demo.figures import Figures, cooldown
from jobkit.cli.demo.handlers import PAYMENT, THUMBNAIL
from jobkit.cli.demo.story import CAPACITY, PHASES
from jobkit.cli.demo.verdict import Verdict, summary
from jobkit.cli.demo.view import Flow, View

TONES = {"good": "green", "bad": "bold red", "note": "yellow", "": ""}
STATES = {
    "CLOSED": ("green", "jobs flow"),
    "OPEN": ("red", "jobs are held"),
    "HALF_OPEN": ("yellow", "probing"),
}
KEPT_LINES = 40
MARGIN = 10  # characters, for the time of what is said


@dataclass(frozen=True, slots=True)
class Line:
    """Something said `at` seconds into the story."""

    at: float
    text: str
    tone: str


class ScreenTeller:
    """Draws anew whenever there is news. `draw` puts a picture on the terminal."""

    def __init__(
        self,
        draw: Callable[[RenderableType], None],
        clock: Callable[[], float],
        bank: Bank,
        hint: str,
        interval: float,
    ) -> None:
        self._draw = draw
        self._clock = clock
        self._bank = bank
        self._hint = hint
        self._began = clock()
        self._phase = 0
        self._lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self._figures = Figures(interval)
        self._view: View | None = None

    def begin(self, phase: int) -> None:
        self._phase = phase

    def say(self, text: str, tone: str = "") -> None:
        self._lines.append(Line(self._clock() - self._began, text, tone))
        self._redraw()

    def show(self, view: View) -> None:
        self._view = view
        self._figures.add(view)
        self._redraw()

    def _redraw(self) -> None:
        if self._view is not None:
            self._draw(self._picture(self._view))

    def _picture(self, view: View) -> Layout:
        picture = Layout()
        picture.split_column(
            Layout(self._header(), size=3),
            Layout(name="middle", size=9),
            Layout(Told(tuple(self._lines)), name="told"),
            Layout(
                Text(self._hint, style="dim", justify="center", no_wrap=True, overflow="ellipsis"), size=1
            ),
        )
        picture["middle"].split_row(
            Layout(
                Panel(Flows(view, self._figures, self._bank), title="jobs done a second", box=box.ROUNDED)
            ),
            Layout(_breaker(view, self._figures.most_held), size=38),
        )
        return picture

    def _header(self) -> Panel:
        steps = Text(no_wrap=True, overflow="ellipsis")
        for index, name in enumerate(PHASES):
            style = "bold reverse" if index == self._phase else ("green" if index < self._phase else "dim")
            steps.append(f" {name} ", style=style)
            if index < len(PHASES) - 1:
                steps.append(" > ", style="dim")
        title = f"[bold]selfheal demo[/]  {self._clock() - self._began:5.1f} s"
        return Panel(steps, title=title, title_align="left", box=box.ROUNDED)


class Flows:
    """A line of throughput for each type, as wide as there is room, and the bank's state."""

    def __init__(self, view: View, figures: Figures, bank: Bank) -> None:
        self._view = view
        self._figures = figures
        self._bank = bank

    def __rich_console__(self, console: Console, options: object) -> Iterable[RenderableType]:
        width = max(getattr(options, "max_width", 80) - 22, 10)
        yield from self._type(PAYMENT, self._view.payments, width, "cyan")
        yield Text()
        yield from self._type(THUMBNAIL, self._view.thumbnails, width, "magenta")
        yield Text()
        bank = self._bank
        up = Text(" UP ", "black on green") if bank.up else Text(" DOWN ", "bold white on red")
        yield Text.assemble(
            ("bank       ", "bold"),
            up,
            f"  bears {bank.capacity:.0f}/s  calls {bank.calls}  refused {bank.refused}",
        )

    def _type(self, name: str, flow: Flow, width: int, colour: str) -> Iterable[Text]:
        line = sparkline(list(self._figures.rates[name]), width, CAPACITY * 1.1)
        yield Text.assemble((f"{name:<10} ", "bold"), (line, colour), f" {self._figures.rate[name]:5.1f}/s")
        counts = [f"done {flow.done}", f"running {flow.running}", f"waiting {flow.waiting - flow.held}"]
        counts += [f"held {flow.held}"] if flow.held else []
        yield Text("           " + "  ".join(counts), style="dim")


def _breaker(view: View, most_held: int) -> Panel:
    colour, meaning = STATES.get(view.state, ("", ""))
    lines: list[Text] = [
        Text.assemble((f" {view.state} ", f"bold black on {colour}"), f"  {meaning}"),
        Text(),
    ]
    left = cooldown(view.breaker, time.time())
    if left is not None:
        seconds, whole = left
        lines.append(Text(f"next probe in {seconds:4.1f} s"))
        lines.append(Text(bar(seconds / whole, 32), style=colour))
    elif view.state == "CLOSED" and view.breaker.failures:
        seen = ", ".join(f"{code} {number}" for code, number in sorted(view.breaker.failures.items()))
        lines += [Text(f"failures seen: {seen}", style="yellow"), Text()]
    else:
        lines += [Text(), Text()]
    lines.append(Text())
    lines.append(Text(f"held {view.payments.held} payments", style="bold" if view.payments.held else "dim"))
    lines.append(Text(bar(view.payments.held / most_held if most_held else 0, 32), style="yellow"))
    return Panel(Group(*lines), title=f"breaker [bold]{PAYMENT}[/]", box=box.ROUNDED, border_style=colour)


class Told:
    """What was said, the newest last, as much of it as there is room for."""

    def __init__(self, lines: tuple[Line, ...]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: object) -> Iterable[RenderableType]:
        room = getattr(options, "height", None) or 12
        width = max(getattr(options, "max_width", 80) - 4 - MARGIN, MARGIN)
        shown = []
        for line in self._lines:
            margin = f"{line.at:6.1f} s".ljust(MARGIN)
            for piece in Text(line.text, TONES[line.tone]).wrap(console, width):
                shown.append(Text.assemble((margin, "dim"), piece))
                margin = " " * MARGIN
        inside = Group(*shown[-max(room - 2, 1) :])
        yield Panel(inside, title="what happens", title_align="left", box=box.ROUNDED, height=room)


def screen_summary(verdict: Verdict) -> RenderableType:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column(style="dim")
    for row in summary(verdict):
        table.add_row(*row)
    good = not verdict.objections
    title = "healed by itself" if good else "not the story that was promised"
    return Panel(table, title=f"[bold]{title}[/]", border_style="green" if good else "red", expand=False)
