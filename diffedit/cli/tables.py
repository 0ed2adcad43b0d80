"""Print a table on standard output: as wide as the terminal, or 160 columns in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 160


def print_table(table: Table, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
    """Print a table between lines of plain text."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # rich would assume 80 columns and wrap the cells
        console = Console(width=PIPE_WIDTH)
    for line in before:
        console.print(line, markup=False)
    console.print(table)
    for line in after:
        console.print(line, markup=False)
