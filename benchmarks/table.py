"""Tables for a terminal and for a Markdown file."""

from __future__ import annotations

from collections.abc import Sequence


def render(heads: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool, left: int = 1) -> str:
    """Return the table; the first ``left`` columns are set flush left, all others, being figures, flush right."""
    if markdown:
        rule = ["---" if place < left else "---:" for place in range(len(heads))]
        return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *rows))
    widths = [max(len(line[place]) for line in (heads, *rows)) for place in range(len(heads))]

    def shown(line: Sequence[str]) -> str:
        cells = zip(line, widths, strict=True)
        return "  ".join(c.ljust(w) if place < left else c.rjust(w) for place, (c, w) in enumerate(cells)).rstrip()

    return "\n".join(shown(line) for line in (heads, *rows))
