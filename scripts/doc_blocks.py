"""Print the fenced blocks of one language below a heading of a Markdown file, in order.

usage: doc_blocks.py FILE LANGUAGE [HEADING] [NUMBER]

HEADING is the text of a `##` line; NUMBER asks for that block only, from 1.
"""

from __future__ import annotations

import pathlib
import sys


def blocks(text: str, language: str, heading: str) -> list[str]:
    found: list[str] = []
    inside: list[str] | None = None
    here = not heading
    for line in text.splitlines():
        if inside is not None:
            if line.startswith("```"):
                found.append("\n".join(inside))
                inside = None
            else:
                inside.append(line)
        elif line.startswith("## ") and heading:
            here = line.removeprefix("## ").strip() == heading
        elif here and line == f"```{language}":
            inside = []
    return found


def main() -> int:
    name, language, *rest = sys.argv[1:]
    heading = rest[0] if rest else ""
    found = blocks(pathlib.Path(name).read_text(encoding="utf-8"), language, heading)
    if len(rest) > 1:
        found = found[int(rest[1]) - 1 : int(rest[1])]
    if not found:
        print(f"{name} has no {language} block under {heading!r}", file=sys.stderr)
        return 1
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
