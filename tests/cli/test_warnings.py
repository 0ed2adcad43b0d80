"""Warnings of a request are printed by every command, once, and stand in the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import FAST, Cli

FOREIGN = ("--prompt", "(blue:1.4) ball <lora:style:0.8>", "--source", "a red ball")


@pytest.mark.parametrize("command", ["edit", "mask"])
def test_syntax_of_other_programs_is_warned_about(command: str, work: Path, cli: Cli) -> None:
    done = cli(command, "in.png", *FOREIGN, *FAST, "-o", "o.png", "--json", "-q")
    assert done.code == 0, done.err
    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert "'(blue:1.4)', '<lora:style:0.8>'" in warning
    assert done.line["warnings"] == [warning.removeprefix("warning: ")]


def test_batch_answers_with_the_warning(work: Path, cli: Cli) -> None:
    line = {"image": "in.png", "out": "o.png", "prompt": "((ball))", "num_inference_steps": 2}
    done = cli("batch", "-", "--dtype", "fp32", "-q", stdin=json.dumps(line).encode())
    assert any("'((ball))'" in warning for warning in done.line["warnings"]), done.lines
