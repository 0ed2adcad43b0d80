"""Every command uses the preset "balanced" if none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffedit.imaging.metadata import read_record
from diffedit.presets import DEFAULT_PRESET
from tests.cli.conftest import PROMPTS, Cli

USED = {"preset": "balanced", "num_maps_per_mask": 3, "mask_tolerance": 0.1}
RUN = ("--steps", 3, "--dtype", "fp32", "--json")


def test_edit_and_mask(work: Path, cli: Cli) -> None:
    for command in ("edit", "mask"):
        done = cli(command, "in.png", *PROMPTS, *RUN)
        assert done.code == 0, done.err
        assert done.line["parameters"].items() >= (USED | {"mask_cleaning": "edges"}).items()
    assert read_record(Path("in.edited.png")).parameters["guidance_interval"] == [0.533333, 1.0]


def test_a_line_of_batch(work: Path, cli: Cli) -> None:
    line: dict[str, Any] = {"image": "in.png", "prompt": "a blue ball", "source_prompt": "a ball"}
    lines = [line | {"out": "a.png"}, line | {"out": "b.png", "preset": "paper"}]
    for one in lines:
        one["num_inference_steps"] = 3
    Path("edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = cli("batch", "edits.jsonl", "--dtype", "fp32")
    assert done.code == 0, done.err
    first, second = (read_record(Path(name)).parameters for name in ("a.png", "b.png"))
    assert first.items() >= USED.items()
    assert (second["preset"], second["num_maps_per_mask"]) == ("paper", 10)


def test_a_file_of_the_earlier_default_is_not_taken_for_this_edit(work: Path, cli: Cli) -> None:
    """`batch` goes on only with files that were made with the same options."""
    line = {"image": "in.png", "out": "a.png", "prompt": "a ball", "num_inference_steps": 3}
    Path("edits.jsonl").write_text(json.dumps(line))
    made = cli("edit", "in.png", "-p", "a ball", "--preset", "paper", *RUN, "-o", "a.png")
    assert made.code == 0, made.err
    done = cli("batch", "edits.jsonl", "--dtype", "fp32")
    assert done.code != 0
    message = done.line["error"]["message"]
    assert "other " in message and "num_maps_per_mask" in message


@pytest.mark.parametrize("command", ["edit", "mask"])
def test_help_names_it(command: str, cli: Cli) -> None:
    assert DEFAULT_PRESET == "balanced"
    text = " ".join(cli(command, "--help").out.decode().replace("│", " ").split())
    assert "[default: balanced]" in text
