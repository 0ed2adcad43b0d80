"""`build`: the command line of `python -m export`. The only module here that imports `export`."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer
from typer.core import TyperCommand

from diffedit.own_packages import claim


class BuildCommand(TyperCommand):
    """A command that imports `export` when it runs or is completed, but not when it is listed."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments with the command of `export`, which the context then refers to."""
        return compiler().make_context(*arguments, **options)


@cache
def compiler() -> Any:
    """The command of `export` with all of its options, for use as `diffedit-trt build`."""
    claim("export")
    from export.__main__ import EPILOG, build_command

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    epilog = EPILOG.replace("python -m export --model", "diffedit-trt build")
    app.command(name="build", epilog=epilog)(build_command())
    return typer.main.get_command(app)


def build() -> None:
    """Compile a model into ONNX files and TensorRT engines; see `build --help`."""
