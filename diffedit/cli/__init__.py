"""`diffedit-trt`: the command line of `DiffEditPipeline`.

PyTorch and other large packages are imported when a command runs, so that `--help` is fast. Data
(pictures, JSON, tables) goes to standard output; messages go to standard error.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import diffedit
from diffedit.cli import batch, build, doctor, edit, engines, examples, mask, replay, restore, serve
from diffedit.cli.command import add_command
from diffedit.cli.errors import EXIT_CODES, INTERRUPTED, report_error, say
from engine.interrupts import forget_interrupt

_HELP = "Edit photographs: describe what a photograph shows and what it should show instead."
_EXIT_CODES = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
_EPILOG = (
    f"[bold]Examples[/bold]\n{examples.PROGRAM}\n[bold]Exit codes[/bold]\n{_EXIT_CODES}\n\n"
    "`diffedit-trt COMMAND --help` describes a command."
)

app = typer.Typer(
    name="diffedit-trt",
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_MANY = "run many edits with `diffedit-trt batch`, whose file has one edit per line."
add_command(app, edit.edit, examples=examples.EDIT, more_files=_MANY)
add_command(app, mask.mask, examples=examples.MASK, more_files=_MANY)
add_command(app, replay.replay, examples=examples.REPLAY, more_files=_MANY)
add_command(app, restore.restore, examples=examples.RESTORE)
add_command(app, batch.batch, examples=examples.BATCH)
add_command(app, serve.serve, examples=examples.SERVE)
app.command(name="build", cls=build.BuildCommand)(build.build)
app.add_typer(engines.app, name="engines")
add_command(app, doctor.doctor, examples=examples.DOCTOR)


def _print_version(requested: bool) -> None:
    if requested:
        print(diffedit.__version__)  # noqa: T201
        raise typer.Exit


@app.callback(help=_HELP)
def _program_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line. Always raises SystemExit with the exit code."""
    if arguments is None:  # running as a program: let SIGTERM run the cleanup code too
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=args, prog_name="diffedit-trt")
    except SystemExit as exit_:
        forget_interrupt()
        if exit_.code == 130 and args[:1] != ["build"]:  # `build` prints its own message
            say(INTERRUPTED)
        raise
    except BaseException as error:
        forget_interrupt()
        sys.exit(report_error(error, as_json="--json" in args))
