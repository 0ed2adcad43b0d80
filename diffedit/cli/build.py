"""`build`: the same command line as `python -m export`, the one door from here to the compiler."""

from __future__ import annotations

from typing import Any

import typer

SETTINGS: dict[str, Any] = {
    "name": "build",
    "add_help_option": False,
    "options_metavar": "MODEL [OPTIONS]",
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
"""Every argument, `--help` too, goes on to the compiler's own command line."""


def build(context: typer.Context) -> None:
    """Compile a model into ONNX files and TensorRT engines; `build --help` says more."""
    arguments = list(context.args)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--model")
    from export.__main__ import app

    app(args=arguments, prog_name="diffedit-trt build")
