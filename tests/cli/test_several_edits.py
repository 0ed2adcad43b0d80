"""Several edits in one command, in a line of `batch`, and replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffedit.imaging.metadata import read_record
from tests.cli.conftest import FAST, Cli, check_refused, snapshot
from tests.cli.test_edit import pixels

TWO = ("--edit", "a red ball -> a blue ball", "--edit", "a red ball -> green grass")


def test_two_edits_in_one_command_and_replayed(work: Path, cli: Cli) -> None:
    done = cli("edit", "in.png", *TWO, *FAST, "--json", "-o", "out.png", "--mask-out", "m.png")
    assert done.code == 0, done.err
    used = done.line["parameters"]["edits"]
    assert used == [
        {"prompt": "a blue ball", "source_prompt": "a red ball"},
        {"prompt": "green grass", "source_prompt": "a red ball"},
    ]
    shares = [edit["mask_share"] for edit in done.line["edits"]]
    assert len(shares) == 2 and shares[0] > 0
    assert sum(shares) == pytest.approx(done.line["mask_share"], abs=1e-4)
    assert read_record(work / "out.png").parameters["edits"] == used
    outside = pixels("m.png") == 0
    assert (pixels("out.png")[outside] == pixels("in.png")[outside]).all()
    again = cli("replay", "out.png", "in.png", "--dtype", "fp32")
    assert again.code == 0 and "identical to out.png in every pixel" in again.err


def test_a_line_of_batch_with_edits_and_a_preset(work: Path, cli: Cli) -> None:
    edits = [["a red ball", "a blue ball"], "a red ball -> green grass"]
    line: dict[str, Any] = {"image": "in.png", "out": "out.png", "edits": edits, "preset": "draft"}
    line |= {"num_inference_steps": 2, "mask_thresholding_ratio": 1}
    (work / "edits.jsonl").write_text(json.dumps(line))
    done = cli("batch", "edits.jsonl", "--dtype", "fp32")
    assert done.code == 0, done.err
    record = read_record(work / "out.png").parameters
    assert record["preset"] == "draft"
    assert [edit["prompt"] for edit in record["edits"]] == ["a blue ball", "green grass"]
    again = cli("batch", "edits.jsonl", "--dtype", "fp32")
    assert again.line["status"] == "skipped"
    line["edits"] = edits[:1]
    (work / "edits.jsonl").write_text(json.dumps(line))
    other = cli("batch", "edits.jsonl", "--dtype", "fp32")
    assert "difference: other edits" in other.line["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No prompt is given; add --prompt, or --edit"),
        (["--edit", "a ball"], "Edit 1: An edit is 'a ball', but must be"),
        (["--edit", "a -> b -> c"], "one arrow such as"),
        (["--edit", "a -> b", "--edit", "a ball -> "], "Edit 2: prompt is blank"),
        (["--edit", "a -> b", "-p", "c"], "prompt is 'c', but edits is given"),
        (["--edit", "a -> b", "--source", "c"], "source_prompt is 'c', but edits"),
        (["--edit", "a -> b", "--method", "sdedit"], "one edit at a time"),
        (["--edit", "a -> b", "--focus", "on"], "focus is True, but a window"),
        (["--edit", "a -> b", "--focus", "auto"], "focus is 'auto', but a window"),
        (["--edit", "a -> b", "--mask", "in.png"], "finds its own mask"),
        (["--edit", "a -> b"] * 17, "edits has 17 edits, but at most 16"),
    ],
)
def test_contradictions(arguments: list[str], words: str, work: Path, cli: Cli) -> None:
    before = snapshot(work)
    check_refused(cli("edit", "in.png", *arguments), 2, words)
    assert snapshot(work) == before
