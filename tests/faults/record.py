"""Where the soak's last record is kept."""

from __future__ import annotations

from pathlib import Path

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


def write_record(text: str, page: Path = OPERATIONS) -> None:
    """Replace what is between the markers. Raises ValueError where there are none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no markers for the soak's record")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
