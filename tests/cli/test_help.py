"""`--help`: it documents exit codes, fits 80 columns, and its examples are valid."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diffedit.cli import examples
from diffedit.cli.errors import EXIT_CODES
from tests.cli.commands import COMMANDS
from tests.cli.conftest import Cli

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE_TEXTS = {name: text for name, text in vars(examples).items() if name.isupper()}


def example_commands() -> list[list[str]]:
    text = "\n".join(EXAMPLE_TEXTS.values()).replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"diffedit-trt (.*)", text)]


def test_the_exit_codes_are_documented(cli: Cli) -> None:
    text = " ".join(cli("--help").out.decode().split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_shows_examples_of_itself(path: tuple[str, ...], cli: Cli) -> None:
    outcome = cli(*path, "--help")
    text = outcome.out.decode()
    assert outcome.code == 0
    assert "Examples" in text
    assert f"diffedit-trt {' '.join(path)}" in text.partition("Examples")[2]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_name_is_truncated(
    path: tuple[str, ...], columns: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = cli(*path, "--help").out.decode()
    for option in COMMANDS[path].params:
        assert all(name in text for name in option.opts if name.startswith("-"))


@pytest.mark.parametrize("arguments", example_commands(), ids=" ".join)
def test_examples_use_existing_commands_and_options(arguments: list[str]) -> None:
    path = tuple(arguments[: 2 if arguments[0] == "engines" else 1])
    command = COMMANDS[path]
    names = {name for option in command.params for name in option.opts}
    assert {word for word in arguments if re.match(r"--?\w", word)} <= names


@pytest.mark.parametrize("name", EXAMPLE_TEXTS)
def test_examples_fit_80_columns(name: str) -> None:
    assert max(len(line) for line in EXAMPLE_TEXTS[name].splitlines()) <= 78


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import json, sys\n"
        "from diffedit.cli import main\n"
        "try:\n    main(['edit', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    imported = set(json.loads(output.splitlines()[-1]))
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "fastapi", "ray", "onnxruntime"}
    assert not heavy & imported
