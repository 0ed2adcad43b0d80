"""`doctor`: what is here, what is missing and how to get it, as a table or as json."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from diffedit.cli import options as o

_MARKS = {"ok": "[green]ok[/green]", "missing": "[yellow]--[/yellow]", "problem": "[red]!![/red]"}


def doctor(engines: o.Engines = None, as_json: o.Json = False) -> None:
    """Look at packages, devices and room; say what is missing and how to get it.

    Exits with 1 where something is wrong; what is merely not installed is not wrong.
    """
    from diffedit.doctor import report

    checks = report(engines)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}))  # noqa: T201
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 1))
        for check in checks:
            fix = f"\n[dim]{escape(check.fix)}[/dim]" if check.fix else ""
            table.add_row(_MARKS[check.state], check.name, escape(check.what) + fix)
        console = Console()
        if not console.is_terminal:  # a pipe has no width of its own
            console = Console(width=160)
        console.print(table)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)
