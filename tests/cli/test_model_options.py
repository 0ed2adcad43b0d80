"""Every command that names a model takes the same options about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from safetensors.torch import save_file

import diffedit.cli
import diffedit.cli.build
import export.__main__
from engine.model_options import ModelSource
from tests.cli.conftest import Cli, check_refused
from tests.engine.lora_files import ATTENTION, pair

PROGRAMS = {
    "diffedit-trt": typer.main.get_command(diffedit.cli.app),
    "diffedit-trt build": diffedit.cli.build.compiler(),  # imported when it runs
    "python -m export": typer.main.get_command(export.__main__.app),
}
NO_MODEL = {"build", "restore", "list"}
"""Commands that name no model, and `build` as the main program has it."""


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command of a program, with its whole name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for each in inner:
        yield from commands(inner[each], f"{name} {each}")


COMMANDS = dict(
    found
    for name, program in PROGRAMS.items()
    for found in commands(program, name)
    if name != "diffedit-trt" or found[0].split()[-1] not in NO_MODEL
)


def options_of(command: Any) -> dict[str, Any]:
    return {one.name: one for one in command.params if one.param_type_name == "option"}


def test_the_commands_are_all_that_name_a_model() -> None:
    assert {name.split()[-1] for name in COMMANDS} == {
        *("edit", "mask", "replay", "batch", "serve", "build", "explain", "doctor", "export"),
    }
    for name, command in commands(typer.main.get_command(diffedit.cli.app), "diffedit-trt"):
        if name not in COMMANDS:
            assert "model" not in {one.name for one in command.params}, name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_the_options_of_a_model(name: str) -> None:
    command = COMMANDS[name]
    assert "model" in {one.name for one in command.params}
    own = options_of(command)
    wanted = options_of(COMMANDS["diffedit-trt edit"])
    for field in fields(ModelSource):
        option = own[field.name]
        assert option.opts == wanted[field.name].opts
        assert option.help == wanted[field.name].help
        assert option.multiple == wanted[field.name].multiple


@pytest.fixture
def lora(work: Path) -> Path:
    path = work / "style.safetensors"
    save_file(pair(f"{ATTENTION}.to_q"), path)
    return path


@pytest.mark.slow
def test_doctor_says_what_a_lora_changes(lora: Path, tiny: Path, cli: Cli) -> None:
    done = cli("doctor", tiny, "--lora", f"{lora}:0.5", "--json")
    checks = {check["name"]: check for check in done.line["checks"]}
    assert checks["lora style.safetensors"]["what"] == "changes layers: 1 of the unet"
    save_file(pair("nothing.to_q"), lora)
    done = cli("doctor", tiny, "--lora", lora, "--json")
    checks = {check["name"]: check for check in done.line["checks"]}
    assert done.code == 1 and checks["lora style.safetensors"]["state"] == "problem"
    assert "belong to no layer" in checks["lora style.safetensors"]["what"]


@pytest.mark.parametrize("command", [("doctor",), ("engines", "explain", ".")])
def test_options_about_a_model_need_one(command: tuple[str, ...], cli: Cli) -> None:
    check_refused(cli(*command, "--vae", "other"), 2, "--vae")
