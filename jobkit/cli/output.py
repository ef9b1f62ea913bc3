"""What commands print: tables for people, the protobuf JSON mapping for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobkit.rpc.convert import from_timestamp, struct_to_dict, whole

PIPE_WIDTH = 240  # where no terminal says how wide it is, nothing is worth cutting

COLOURS = {
    "SUCCEEDED": "green",
    "CLOSED": "green",
    "RUNNING": "cyan",
    "QUEUED": "blue",
    "PENDING": "blue",
    "RETRYING": "yellow",
    "HALF_OPEN": "yellow",
    "QUARANTINED": "red",
    "OPEN": "red",
    "CANCELLED": "dim",
    "DISCARDED": "dim",
    "DONE": "green",
    "STOPPED": "red",
    "ACTIVE": "green",
    "DRAINING": "yellow",
    "DISCONNECTED": "red",
    "ACKED": "green",
    "NACKED": "red",
}

Cell = str | Text


def coloured(state: str, more: str = "") -> Text:
    """A state in its colour, with what qualifies it."""
    return Text.assemble((state, COLOURS.get(state, "")), f" {clean(more)}" if more else "")


def clean(text: str) -> str:
    """Payloads and messages come from anywhere: control characters must not reach the terminal."""
    return "".join(
        repr(char)[1:-1] if unicodedata.category(char) == "Cc" and char != "\n" else char for char in text
    )


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """The first column is the name and is never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    _print(table)


def print_details(rows: Iterable[tuple[str, Cell]]) -> None:
    """A line each; what is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(name, _text(value))
    _print(grid)


def print_line(cells: Iterable[Cell]) -> None:
    """What is not empty, on one line."""
    line = Text(" ").join(_text(cell) for cell in cells if cell)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(line)
    typer.echo(captured.get().rstrip("\n"))


def print_json(message: Message, *, indent: int | None = 2) -> None:
    """One document; fields without presence are always there."""
    plain = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    typer.echo(json.dumps(_whole(plain), indent=indent, ensure_ascii=False))


def print_json_lines(messages: Iterable[Message]) -> None:
    """One document a line, so that a long list can be read as it comes."""
    for message in messages:
        print_json(message, indent=None)


def struct_text(struct: Struct) -> str:
    return json.dumps(struct_to_dict(struct), ensure_ascii=False, sort_keys=True)


def time_text(message: Message, field: str) -> str:
    """The time in `field`, in UTC to the second; "" where it is absent."""
    if not message.HasField(field):
        return ""
    return f"{from_timestamp(getattr(message, field)):%Y-%m-%d %H:%M:%S}Z"


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(clean(cell))


def _whole(value: object) -> object:
    """Whole numbers as integers: on the wire they are doubles, which Python prints as 1.0."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return whole(value) if isinstance(value, float) else value
