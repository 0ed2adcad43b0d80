"""`build`: the command line of `python -m export`. The only module here that imports `export`."""

from __future__ import annotations

from typing import Any

import typer

from diffedit.own_packages import claim
from engine.option_groups import expand_groups

SETTINGS: dict[str, Any] = {
    "name": "build",
    "add_help_option": False,
    "options_metavar": "MODEL [OPTIONS]",
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
"""Pass every argument, --help included, to the command line of `export`."""


def build(context: typer.Context) -> None:
    """Compile a model into ONNX files and TensorRT engines; see `build --help`."""
    claim("export")
    from export.__main__ import EPILOG, build_command

    compiler = typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    compiler.command(epilog=EPILOG.replace("python -m export --model", "diffedit-trt build"))(
        expand_groups(build_command)
    )
    compiler(args=list(context.args), prog_name="diffedit-trt build")
