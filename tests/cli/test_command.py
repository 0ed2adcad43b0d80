"""Option groups: dataclasses whose fields become options."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated

import pytest
import typer

from diffedit.cli.command import add_command
from diffedit.cli.errors import UsageError
from diffedit.cli.model_options import ModelOptions
from engine.option_groups import expand_groups


@dataclasses.dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--width", help="In pixels.")]
    height: Annotated[int, typer.Option("--height")] = 3


def draw(name: Annotated[str, typer.Argument()], *, size: Size, quiet: bool = False) -> None:
    """Draw a rectangle
    of some size.

    A second paragraph that is long enough
    for two lines.
    """
    print(f"{name} {size} {quiet}")


def run(*arguments: str) -> None:
    app = typer.Typer(add_completion=False)
    add_command(app, draw, examples="  draw a --width 1")
    app(args=list(arguments), standalone_mode=False)


def test_a_group_is_replaced_by_its_fields() -> None:
    parameters = inspect.signature(expand_groups(draw)).parameters
    assert list(parameters) == ["name", "width", "height", "quiet"]
    assert parameters["width"].default is inspect.Parameter.empty
    assert parameters["height"].default == 3


def test_the_command_receives_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    run("a", "--width", "5")
    run("b", "--width", "6", "--height", "7", "--quiet")
    assert capsys.readouterr().out.splitlines() == [
        "a Size(width=5, height=3) False",
        "b Size(width=6, height=7) True",
    ]


def test_help_joins_the_lines_of_a_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    text = capsys.readouterr().out
    assert "Draw a rectangle of some size." in text
    assert "long enough for two lines." in text
    assert "draw a --width 1" in text
    assert "In pixels." in text


def test_model_options_are_the_arguments_of_the_pipeline() -> None:
    chosen = ModelOptions(model="sd15", size="512x768", backend="torch")
    assert chosen.pipeline_arguments() == {
        "model": "sd15",
        "base": None,
        "prediction_type": None,
        "vae": None,
        "embeddings": [],
        "clip_skip": 0,
        "scheduler": None,
        "variant": None,
        "revision": None,
        "engines": None,
        "backend": "torch",
        "dtype": None,
        "device": None,
        "size": (512, 768),
        "compile": False,
        "pin_batch_size": None,
        "lora": [],
        "offload_text": False,
        "ignore_memory": False,
    }
    with pytest.raises(UsageError, match="--size is wrong"):
        ModelOptions(model="sd15", size="big").pipeline_arguments()
