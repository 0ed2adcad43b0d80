"""`batch`: whatever is in a line, that line fails alone, and before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, Outcome, check_refused

EDIT: dict[str, Any] = {
    "image": "in.png",
    "prompt": "a blue ball",
    "source_prompt": "a red ball",
    "preset": "paper",
    "num_inference_steps": 2,
    "mask_thresholding_ratio": 1.0,
}
LONG = "n" * 300 + ".png"
HUGE = 10**400

BAD_LINES: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "no json": (b"{not json", "is not a JSON object (Expecting property name"),
    "two objects": (b"{} {}", "is not a JSON object (Extra data"),
    "array": (b"[1]", "is not a JSON object (it is a list)"),
    "text": (b'"in.png"', "is not a JSON object (it is a str)"),
    "null": (b"null", "is not a JSON object"),
    "NaN": (b"NaN", "is not a JSON object (it is a float)"),
    "deep array": (b"[" * 100_000, "is not a JSON object (nested too deep)"),
    "deep object": (b'{"a":' * 100_000, "is not a JSON object (nested too deep)"),
    "digits": (b'{"seed": ' + b"9" * 5000 + b"}", "is not a JSON object (Exceeds the limit"),
    "Latin-1": ('{"prompt": "caf\xe9"}'.encode("latin-1"), "byte 16 is not UTF-8"),
    "a NUL": (b'{"prompt": "\0"}', "is not a JSON object (Invalid control character"),
    "same key": (b'{"seed": 1, "seed": 2}', "the key 'seed' is repeated"),
    "same key inside": (b'{"a": {"b": 1, "b": 2}}', "the key 'b' is repeated"),
    "empty object": ({}, "has no image"),
    "no out": (EDIT, "has no out"),
    "no image": ({"prompt": "x", "out": "o.png"}, "has no image"),
    "null image": (EDIT | {"image": None, "out": "o.png"}, "has no image"),
    "NaN out": (EDIT | {"out": float("nan")}, "has no out"),
    "no prompt": ({"image": "in.png", "out": "o.png"}, "contain no prompt"),
    "null prompt": (EDIT | {"prompt": None, "out": "o.png"}, "contain no prompt"),
    "blank prompt": (EDIT | {"prompt": " ", "out": "o.png"}, "prompt is blank"),
    "prompt is a number": (EDIT | {"prompt": 5, "out": "o.png"}, "prompt is 5 of type int"),
    "prompt is a list": (EDIT | {"prompt": ["a"], "out": "o.png"}, "prompt is ['a'] of type list"),
    "prompt with a NUL": (EDIT | {"prompt": "a\0b", "out": "o.png"}, "contains a NUL"),
    "prompt with a surrogate": (EDIT | {"prompt": "\ud800", "out": "o.png"}, "surrogate"),
    "huge prompt": (EDIT | {"prompt": "x" * 10**6, "out": "o.png"}, "1000000 characters"),
    "misspelt": (EDIT | {"out": "o.png", "seeed": 3}, "did you mean 'seed'?"),
    "name of diffusers": (EDIT | {"out": "o.png", "generator": 3}, "it is called 'seed' here"),
    "mask": (EDIT | {"out": "o.png", "mask": "m.png"}, "it is called 'mask_image' here"),
    "imag": (EDIT | {"out": "o.png", "imag": "a"}, "did you mean 'image'"),
    "unknown null": (EDIT | {"out": "o.png", "comment": None}, "no parameter 'comment'"),
    "empty key": (EDIT | {"out": "o.png", "": 1}, "no parameter ''"),
    "strength": (EDIT | {"out": "o.png", "strength": float("inf")}, "strength is inf"),
    "huge number": (EDIT | {"out": "o.png", "strength": HUGE}, "strength is 1"),
    "huge seed": (EDIT | {"out": "o.png", "seed": HUGE}, "seed is 1"),
    "half a step": (EDIT | {"out": "o.png", "num_inference_steps": 2.5}, "steps is 2.5"),
    "float beyond int": (EDIT | {"out": "o.png", "seed": 1e300}, "seed is 1"),
    "steps is true": (EDIT | {"out": "o.png", "num_inference_steps": True}, "steps is True"),
    "steps is text": (EDIT | {"out": "o.png", "num_inference_steps": "2"}, "steps is '2'"),
    "steps is a list": (EDIT | {"out": "o.png", "num_inference_steps": [2]}, "steps is [2]"),
    "composite is a number": (EDIT | {"out": "o.png", "composite": 2}, "composite is 2"),
    "method": (EDIT | {"out": "o.png", "method": "difedit"}, "did you mean 'diffedit'"),
    "out is a number": (EDIT | {"out": 7}, "out must be a path, not 7"),
    "out is an object": (EDIT | {"out": {"a": 1}}, "out must be a path"),
    "out is empty": (EDIT | {"out": ""}, "out must be a path, not ''"),
    "out is blank": (EDIT | {"out": " "}, "out is ' '"),
    "out with a NUL": (EDIT | {"out": "b\0.png"}, "out is 'b\\x00.png', which is not a path"),
    "out with a surrogate": (EDIT | {"out": "\ud800.png"}, "which is not a path"),
    "out too long": (EDIT | {"out": LONG}, "too long for a path"),
    "out has no suffix": (EDIT | {"out": "o"}, "extension of a supported picture format"),
    "out is a dash": (EDIT | {"out": "-"}, "extension of a supported picture format"),
    "out is JPEG": (EDIT | {"out": "o.jpg"}, "only PNG"),
    "out is a folder": (EDIT | {"out": "folder.png"}, "is a folder; pass a file"),
    "no folder": (EDIT | {"out": "nowhere/o.png"}, "cannot be written (there is no folder"),
    "folder is a file": (EDIT | {"out": "in.png/o.png"}, "cannot be written"),
    "link loop": (EDIT | {"out": "loop/o.png"}, "cannot be written"),
    "out is its input": (EDIT | {"out": "in.png"}, "is also an input of line 1"),
    "out is its mask": (EDIT | {"out": "m.png", "mask_image": "m.png"}, "an input of line 1"),
    "out is a link to the input": (EDIT | {"out": "link.png"}, "is also an input of line 1"),
    "mask is a number": (EDIT | {"out": "o.png", "mask_image": 1}, "mask_image must be a path"),
    "image is a list": (EDIT | {"out": "o.png", "image": ["in.png"]}, "image must be a path"),
    "image with a NUL": (EDIT | {"out": "o.png", "image": "a\0"}, "image is 'a\\x00', which is"),
    "image too long": (EDIT | {"out": "o.png", "image": LONG}, "image is 'nnn"),
}


@pytest.fixture
def edits(work: Path) -> Path:
    (work / "folder.png").mkdir()
    (work / "loop").symlink_to("loop")
    (work / "link.png").symlink_to("in.png")
    return work / "edits.jsonl"


def write(edits: Path, *rows: dict[str, Any] | bytes) -> None:
    edits.write_bytes(
        b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows)
    )


def statuses(outcome: Outcome) -> list[str]:
    return [line["status"] for line in sorted(outcome.lines, key=lambda line: line["line"])]


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_answered_before_a_model_is_loaded(
    case: str, work: Path, edits: Path, cli: Cli
) -> None:
    """The model does not exist: loading it would be another error, with exit code 3."""
    row, words = BAD_LINES[case]
    write(edits, row)
    done = cli("batch", edits, "--model", "no-model")
    assert done.code in (2, 5), done.err
    assert (done.line["line"], done.line["status"]) == (1, "failed")
    assert words in done.line["error"]["message"]
    assert done.err == "0 of 1 edits done, 1 failed\n"


def test_bad_lines_do_not_stop_the_others(work: Path, edits: Path, cli: Cli) -> None:
    rows = [row for row, _ in BAD_LINES.values()]
    first, last = EDIT | {"out": "first.png"}, EDIT | {"out": "last.png"}
    write(edits, first, *rows, b"", b" \t\r", last)
    done = cli("batch", edits, "--dtype", "fp32", "-q")
    assert done.code == 2
    assert statuses(done) == ["done", *["failed"] * len(rows), "done"], done.err
    assert sorted(line["line"] for line in done.lines) == [*range(1, len(rows) + 2), len(rows) + 4]
    assert "Traceback" not in done.err
    assert {"first.png", "last.png"} <= {p.name for p in work.iterdir()}


def test_two_lines_with_one_target(work: Path, edits: Path, cli: Cli) -> None:
    write(edits, EDIT | {"out": "o.txt"}, *(EDIT | {"out": out} for out in ("a.png", "./a.png")))
    done = cli("batch", edits, "--dtype", "fp32")
    assert statuses(done) == ["failed", "done", "failed"]
    by_line = {line["line"]: line for line in done.lines}
    assert "also the output of line 2" in by_line[3]["error"]["message"]


def test_the_target_of_one_line_may_not_be_the_input_of_another(
    work: Path, edits: Path, cli: Cli
) -> None:
    write(edits, EDIT | {"out": "a.png"}, EDIT | {"image": "a.png", "out": "b.png"})
    done = cli("batch", edits, "--dtype", "fp32", "--force")
    assert statuses(done) == ["failed", "failed"]
    messages = [line["error"]["message"] for line in done.lines]
    assert "is also an input of line 2" in messages[0]
    assert "a.png does not exist" in messages[1]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(work: Path, edits: Path, cli: Cli) -> None:
    (work / "locked").mkdir(mode=0o500)
    write(edits, EDIT | {"out": "locked/a.png"})
    done = cli("batch", edits, "--model", "no-model")
    assert (done.code, statuses(done)) == (5, ["failed"])
    assert "is not writable" in done.line["error"]["message"]


def test_what_pandas_writes_is_read(work: Path, edits: Path, cli: Cli) -> None:
    """`DataFrame.to_json(lines=True)`: nulls in empty cells, and floats in whole columns."""
    pandas = {
        "num_inference_steps": 2.0,
        "seed": 7.0,
        "mask_dilation": float("nan"),
        "method": None,
        "composite": None,
        "mask_image": None,
        "negative_prompt": float("nan"),
    }
    (work / "b").mkdir()
    name = "n" * 245 + ".png"  # valid, and longer with any ending for a temporary file
    write(edits, b"\xef\xbb\xbf" + json.dumps(EDIT | pandas | {"out": "a.png"}).encode() + b"\r")
    with edits.open("ab") as file:
        file.write(b"\n" + json.dumps(EDIT | pandas | {"out": f"b/{name}"}).encode())
    done = cli("batch", edits, "--dtype", "fp32")
    assert statuses(done) == ["done", "done"], done.err
    used = done.lines[0]["parameters"]
    assert (used["seed"], used["num_inference_steps"], used["mask_dilation"]) == (7, 2, 0)
    assert type(used["seed"]) is int
    assert (used["method"], used["composite"], used["negative_prompt"]) == ("diffedit", True, "")
    assert [p.name for p in (work / "b").iterdir()] == [name]


def test_a_dash_is_a_file_name_in_a_line(work: Path, edits: Path, cli: Cli) -> None:
    """Only the command line's own "-" is standard input."""
    (work / "-").write_bytes((work / "in.png").read_bytes())
    write(edits, EDIT | {"image": "-", "out": "a.png"})
    done = cli("batch", "edits.jsonl", "--dtype", "fp32", stdin=b"no picture")
    assert statuses(done) == ["done"], done.lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}".encode("utf-16"), "not UTF-8 text, but UTF-16"),
        (b"\xef\xbb\xbf\n  \n", "contains no edits"),
        (b"", "contains no edits"),
    ],
)
def test_files_that_are_refused_whole(
    content: bytes, words: str, work: Path, edits: Path, cli: Cli
) -> None:
    edits.write_bytes(content)
    check_refused(cli("batch", edits), 2, words)


@pytest.mark.parametrize("name", ["a\0b", "folder.png", "x" * 300])
def test_files_that_cannot_be_read(name: str, work: Path, edits: Path, cli: Cli) -> None:
    check_refused(cli("batch", name), 2, "cannot be read")
