"""`batch`: shared calls, failed lines, and resuming after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffedit.cli.batch_file import read_lines
from tests.cli.conftest import FAST, PROMPTS, Cli, Outcome, check_refused

EDIT: dict[str, Any] = {
    "image": "in.png",
    "prompt": "a blue ball",
    "source_prompt": "a red ball",
    "preset": "paper",
    "num_inference_steps": 2,
    "mask_thresholding_ratio": 1.0,
}


@pytest.fixture
def edits(work: Path) -> Path:
    return work / "edits.jsonl"


def write(edits: Path, *rows: dict[str, Any] | str) -> None:
    edits.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))


def statuses(outcome: Outcome) -> list[str]:
    return [line["status"] for line in sorted(outcome.lines, key=lambda line: line["line"])]


def test_many_edits_are_run_and_skipped_when_run_again(
    work: Path, edits: Path, cli: Cli, photo: Image.Image
) -> None:
    Image.linear_gradient("L").resize(photo.size).save("m.png")
    rows = [EDIT | {"out": f"{seed}.png", "seed": seed} for seed in range(3)]
    write(edits, *rows, "", EDIT | {"out": "m-out.png", "mask_image": "m.png"})
    done = cli("batch", "edits.jsonl", "--dtype", "fp32")
    assert done.code == 0, done.err
    assert [line["line"] for line in done.lines] == [1, 2, 3, 5]
    assert statuses(done) == ["done"] * 4
    assert "4 of 4 edits done, 0 failed" in done.err
    before = (work / "0.png").stat().st_mtime_ns
    (work / "1.png").unlink()
    again = cli("batch", edits, "--dtype", "fp32")
    assert statuses(again) == ["skipped", "done", "skipped", "skipped"]
    assert (work / "0.png").stat().st_mtime_ns == before
    replayed = cli("replay", "0.png", "in.png", "--dtype", "fp32")
    assert replayed.code == 0, replayed.err


def test_edits_of_one_picture_share_its_inversion(work: Path, edits: Path, cli: Cli) -> None:
    write(edits, *(EDIT | {"out": f"{seed}.png", "seed": seed} for seed in range(3)))
    batch = cli("batch", edits, "--dtype", "fp32", "--in-flight", 1)
    assert [line["stats"]["rows"]["unet"] for line in batch.lines] == [
        20 + 2 + 4,  # mask, inversion, decoding with guidance
        20 + 4,
        20 + 4,
    ]
    single = cli("edit", "in.png", *PROMPTS, *FAST, "--seed", 2, "--json")
    assert single.line["stats"]["rows"]["unet"] == 20 + 2 + 4
    assert single.line["parameters"] == batch.lines[2]["parameters"]


def test_files_of_other_edits_are_not_overwritten(work: Path, edits: Path, cli: Cli) -> None:
    write(edits, EDIT | {"out": "a.png"}, EDIT | {"out": "in2.png"})
    (work / "in2.png").write_bytes(b"mine")
    assert statuses(cli("batch", edits)) == ["done", "failed"]
    assert (work / "in2.png").read_bytes() == b"mine"
    write(edits, EDIT | {"out": "a.png", "seed": 1})
    refused = cli("batch", edits)
    assert (refused.code, statuses(refused)) == (2, ["failed"])
    assert "was not made by this edit; add --force" in refused.line["error"]["message"]
    assert statuses(cli("batch", edits, "--force")) == ["done"]


def test_a_failed_line_does_not_stop_the_others(work: Path, edits: Path, cli: Cli) -> None:
    Image.new("L", (50, 50), 255).save("square.png")
    good = EDIT | {"out": "good.png"}
    bad: list[tuple[dict[str, Any] | str, str]] = [
        ("{not json", "is not a JSON object"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        (EDIT, "has no out"),
        ({"prompt": "x", "out": "o.png"}, "has no image"),
        (EDIT | {"out": "a.png", "prompt": " "}, "prompt is blank"),
        (EDIT | {"out": "b.png", "seeed": 3}, "did you mean 'seed'?"),
        (EDIT | {"out": "c.png", "strength": float("inf")}, "strength is inf"),
        (EDIT | {"out": "d.png", "image": "nowhere.png"}, "does not exist"),
        (EDIT | {"out": "e.jpg"}, "only PNG"),
        (EDIT | {"out": "good.png"}, "also the output of line 1"),
        (EDIT | {"out": "nowhere/f.png"}, "cannot be written"),
        (EDIT | {"out": "g.png", "mask_image": "square.png"}, "another aspect"),
        (EDIT | {"out": 7}, "must be a path"),
    ]
    write(edits, good, *(row for row, _ in bad), EDIT | {"out": "last.png"})
    done = cli("batch", edits, "--in-flight", 2)
    assert done.code == 2
    assert statuses(done) == ["done", *["failed"] * len(bad), "done"]
    by_line = {line["line"]: line for line in done.lines}
    for number, (_, words) in enumerate(bad, 2):
        assert words in by_line[number]["error"]["message"]
    assert sorted(p.name for p in work.glob("*.png")) == [
        *("good.png", "in.png", "last.png", "square.png")
    ]


def test_edits_from_standard_input(work: Path, cli: Cli) -> None:
    line = json.dumps(EDIT | {"out": "a.png"})
    done = cli("batch", "-", stdin=line.encode())
    assert (done.code, statuses(done)) == (0, ["done"]), done.err


def test_a_file_without_edits(work: Path, edits: Path, cli: Cli) -> None:
    check_refused(cli("batch", "nowhere.jsonl"), 2, "cannot be read")
    edits.write_text("\n \n")
    check_refused(cli("batch", edits), 2, "contains no edits")
    edits.write_bytes(b"\xff\xfe\x00")
    check_refused(cli("batch", edits), 2, "not UTF-8 text")


def test_a_line_separator_inside_a_string_does_not_end_the_line(edits: Path) -> None:
    """JSON strings may contain U+2028 and U+0085; files from Windows end lines with CR LF."""
    rows = [{"image": "a.png", "prompt": "a\u2028dog\x85"}, {"image": "b.png", "prompt": "b"}]
    edits.write_bytes("\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode())
    assert [line.fields for line in read_lines(str(edits))] == rows
