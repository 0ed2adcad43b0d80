"""`diffedit-trt`: a thin door on `diffedit.pipeline`, from arguments to files and exit codes.

Nothing heavy is imported until a command runs, so that `--help` answers at once. Data (pictures,
json lines, tables) goes to standard output, everything said to people to standard error.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import diffedit
from diffedit.cli import batch, build, doctor, edit, engines, replay, serve
from diffedit.cli.errors import EXIT_CODES, exit_code, say

_CODES = "; ".join(f"[bold]{code}[/bold] {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="diffedit-trt",
    help="Edit a photograph by saying what is there and what should be there instead.",
    epilog=f"Exit codes: {_CODES}.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(edit.edit)
app.command()(edit.mask)
app.command()(replay.replay)
app.command()(batch.batch)
app.command()(serve.serve)
app.command(**build.SETTINGS)(build.build)
app.add_typer(engines.app, name="engines")
app.command()(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        print(diffedit.__version__)  # noqa: T201
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Edit a photograph by saying what is there and what should be there instead."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave with its exit code (SystemExit, always)."""
    if arguments is None:  # the program itself: being told to stop also tidies up
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=given, prog_name="diffedit-trt")
    except SystemExit as end:
        if end.code == 130 and given[:1] != ["build"]:  # which says so in its own words
            say("interrupted; no file was left half-written.")
        raise
    except BaseException as error:
        sys.exit(exit_code(error, as_json="--json" in given))
