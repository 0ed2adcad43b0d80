"""Every command of `diffedit-trt`, as the objects that typer makes."""

from __future__ import annotations

from typing import Any, cast

import typer.main

from diffedit.cli import app
from diffedit.cli.build import compiler

PROGRAM = cast(Any, typer.main.get_command(app))
ENGINES = PROGRAM.commands["engines"]
COMMANDS: dict[tuple[str, ...], Any] = {
    **{(name,): command for name, command in PROGRAM.commands.items() if name != "engines"},
    ("build",): compiler(),
    **{("engines", name): command for name, command in ENGINES.commands.items()},
}
