"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without empty columns; line breaks and bars inside of cells are replaced."""
    cells = list(rows)
    kept = [column for column in range(len(head)) if any(row[column] for row in cells)]
    lines = [[line[column] for column in kept] for line in (head, ["---"] * len(head), *cells)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def number(value: float) -> str:
    """A number with commas, such as "31,536,000" or "0.5"."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
