"""`doctor`: check this machine, as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from diffedit.cli.errors import UsageError
from diffedit.cli.model_options import Engines
from diffedit.cli.output_options import Json
from diffedit.cli.tables import print_table
from engine.model_options import MODEL_ITSELF, ModelSource

if TYPE_CHECKING:
    from diffedit.doctor import Check

DoctorModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="Model folder (diffusers), single .safetensors file, or hub id."
    ),
]
_MARKS = {"ok": "[green]ok[/green]", "missing": "[yellow]--[/yellow]", "problem": "[red]!![/red]"}


def doctor(
    model: DoctorModel = None,
    source: ModelSource = MODEL_ITSELF,
    engines: Engines = None,
    as_json: Json = False,
) -> None:
    """Check packages, devices, memory and disk space, and explain how to fix what is wrong.

    With a model, also report how much memory its parts, an edit and a build need, and whether the
    LoRAs and other additions fit it. Nothing is downloaded.

    The exit code is 1 if there is a problem. A missing optional package is not a problem.
    """
    from diffedit.doctor import report

    if model is None and source.given:
        raise UsageError(f"{source.given[0]} belongs to a model, but none is given; pass a model.")
    checks = report(engines, model, source)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}))  # noqa: T201
    else:
        _print_checks(checks)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[Check]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    for check in checks:
        fix = f"\n[dim]{escape(check.fix)}[/dim]" if check.fix else ""
        table.add_row(_MARKS[check.state], check.name, escape(check.what) + fix)
    print_table(table)
